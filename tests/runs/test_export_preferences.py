"""Preferences as trainers read them: conversations, or plain texts that fit together."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.runs.export_preferences import (
    ExportResult,
    Messages,
    completions,
    is_chat,
    write_preferences,
)
from flowtune_cli.runs.preference_reader import PreferenceWithPrompt

PREFERENCE = PreferenceWithPrompt(
    episode=3,
    step=1,
    node="write",
    alternative=2,
    prompt="<user>Why?<assistant>",
    chosen="Because.",
    rejected="Why not?",
    margin=0.5,
    adapter_version=4,
    example_id="e3",
    question="Why?",
    generated=True,
    truncated=False,
    greedy_chosen=True,
)
JUDGE = {"check": {"score": "choice", "labels": [" Yes", " No"]}}
CHECK = replace(PREFERENCE, node="check", chosen="Yes", rejected="No", generated=False)


def split(text: str) -> tuple[Messages, str] | None:
    if not text.startswith("<user>"):
        return None
    user, _, prefill = text.removeprefix("<user>").partition("<assistant>")
    return [{"role": "user", "content": user}], prefill


def lines(
    preferences: list[PreferenceWithPrompt], nodes: Any = (), **more: Any
) -> tuple[list[dict[str, Any]], ExportResult]:
    file = io.StringIO()
    written = write_preferences(file, preferences, dict(nodes), **{"split": split, **more})
    return [json.loads(line) for line in file.getvalue().splitlines()], written


def test_a_conversation() -> None:
    [line], written = lines([PREFERENCE])
    assert line == {
        "prompt": [{"role": "user", "content": "Why?"}],
        "chosen": [{"role": "assistant", "content": "Because."}],
        "rejected": [{"role": "assistant", "content": "Why not?"}],
        "node": "write",
        "margin": 0.5,
        "episode": 3,
        "step": 1,
        "alternative": 2,
        "example_id": "e3",
        "adapter_version": 4,
        "truncated": False,
    }
    assert (written.lines, written.chat) == (1, True)


@pytest.mark.parametrize(
    ("prompt", "chosen"),
    [
        ("Because:", " Because."),
        ("Because: ", "Because."),
        ("Because:\n", "Because."),
        ("", "Because."),
    ],
)
def test_a_plain_text_goes_on_with_the_space_that_its_node_took_off(
    prompt: str, chosen: str
) -> None:
    [line], written = lines([replace(PREFERENCE, prompt=prompt)], split=None)
    assert (line["prompt"], line["chosen"]) == (prompt, chosen)
    assert not written.chat


def test_what_was_put_into_the_models_mouth_is_a_part_of_both_answers() -> None:
    [line], _ = lines([replace(PREFERENCE, prompt="<user>Why?<assistant>I think")])
    assert line["prompt"] == [{"role": "user", "content": "Why?"}]
    assert line["chosen"][0]["content"] == "I think Because."
    assert line["rejected"][0]["content"] == "I think Why not?"


def test_a_label_could_have_been_written_and_a_ranked_document_could_not() -> None:
    assert completions(CHECK, JUDGE) == [" Yes", " No"]
    by_likelihood = {"check": {**JUDGE["check"], "score": "likelihood"}}
    assert completions(CHECK, by_likelihood) is None
    document = replace(CHECK, chosen="A document.")
    assert completions(document, JUDGE) is None
    written, outcome = lines([document, CHECK, document], JUDGE)
    assert [line["chosen"][0]["content"] for line in written] == [" Yes"]
    assert outcome.skipped == {"check": 2}


def test_all_are_conversations_or_none() -> None:
    plain = replace(PREFERENCE, prompt="Why?")
    document = replace(CHECK, prompt="A document.", chosen="A document.")
    assert is_chat([PREFERENCE, PREFERENCE], {}, split)
    assert not is_chat([PREFERENCE, plain], {}, split)
    assert is_chat([PREFERENCE, document], JUDGE, split)  # which is left out
    assert not is_chat([], {}, split)


@pytest.mark.parametrize("chat", [True, False])
def test_the_library_of_data_sets_reads_it(tmp_path: Path, chat: bool) -> None:
    path = tmp_path / "out.jsonl"
    with path.open("w") as file:
        preferences = [PREFERENCE, replace(PREFERENCE, chosen="Ünlike \u2028 this", margin=1)]
        write_preferences(file, preferences, {}, split if chat else None)
    datasets = pytest.importorskip("datasets")
    table = datasets.load_dataset(
        "json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert table.column_names[:3] == ["prompt", "chosen", "rejected"]
    assert table["margin"] == [0.5, 1.0]
    chosen = table[1]["chosen"]
    assert (chosen[0]["content"] if chat else chosen).strip() == "Ünlike \u2028 this"
    if chat:
        assert table[0]["prompt"] == [{"role": "user", "content": "Why?"}]
