"""One name for one thing: what is played, what is stored and exported, and what is predicted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.installed_plugins import Site
from support.letters_task import LETTERS

Run = Callable[..., Any]
PLAYED_ONLY = {
    ("example", "inputs"),
    ("steps", "kind"),
    ("steps", "options"),
    ("output", "value"),
    ("alternatives", "value"),
    ("rollouts", "baseline"),
}
STORED_ONLY = {("", "number"), ("", "batch")}

# An effect, a failure in every rollout of a node, an evaluator that asks the model.
FULL = (
    LETTERS.replace('name = "letters"', 'name = "full"')
    .replace(
        '        good = await episode.call("check", draft=draft)\n',
        "        await episode.effect(look, draft)\n"
        "        if draft != GREEDY:\n"
        '            raise ValueError("this draft fails")\n'
        '        good = await episode.call("check", draft=draft)\n',
    )
    .replace('reward="sum", max_new_tokens=4)', 'evaluator="llm_judge", max_new_tokens=4)')
    + """

async def look(draft):
    return {"length": len(draft)}

GREEDY = """
)


def shape(value: Any, name: str = "") -> set[tuple[str, str, str]]:
    """The keys of a JSON value: of what each is one, its name, and the type of its value."""
    found: set[tuple[str, str, str]] = set()
    if isinstance(value, dict) and name not in ("detail", "inputs", "result", "args", "gold"):
        for key, inside in value.items():
            if name != "reward_means":
                found.add((name, key, "" if inside is None else type(inside).__name__))
            found |= shape(inside, key)
    if isinstance(value, list):
        for inside in value:
            found |= shape(inside, name)
    return found


@pytest.fixture
def both(letters: Site, run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """An episode as it is played with all deviations, and as a run stores and exports it."""
    Path("one.jsonl").write_text('{"id": "a", "question": "what", "gold": 4}\n')
    data = ("--data", "one.jsonl")
    greedy = json.loads(run("play", "letters", *data, "--json").out)["steps"][0]["output"]["text"]
    letters.install("full", FULL + repr(greedy))
    allowed = ("--set", "training.max_failures=1.0")
    assert run("train", "full", *data, "--name", "a", *allowed).code == 0
    assert run("export", "a", "--episodes", "e.jsonl").code == 0
    [line] = Path("e.jsonl").read_text().splitlines()
    exported = json.loads(line)
    played = run("play", "full", "--deviate", *data, "--json")
    return json.loads(played.out), exported


def test_the_names_and_types_of_what_is_played_are_those_of_what_is_exported(
    both: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    played, exported = both
    assert played.pop("played_by")
    names = [
        {(of, key) for of, key, _ in shape(each) if of != "options"} for each in (played, exported)
    ]
    assert names[0] - names[1] == PLAYED_ONLY
    assert names[1] - names[0] == STORED_ONLY
    types: dict[tuple[str, str], set[str]] = {}
    for each in (played, exported):
        for of, key, kind in shape(each):
            types.setdefault((of, key), set()).add(kind)
    mixed = {key: kinds for key, kinds in types.items() if len(kinds - {""}) > 1}
    assert mixed.keys() <= {("targets", "gold"), ("example", "gold")}
    rollouts = exported["rollouts"]
    assert {r["outcome"] for r in rollouts} >= {"failed"}
    assert exported["effects"]
    assert any(r["evaluator_calls"] for r in rollouts)
    assert [r["number"] for r in rollouts] == [r["number"] for r in played["rollouts"]]
    failed = next(r for r in rollouts if r["outcome"] == "failed")
    assert failed["failure"]["error"] == "ValueError: this draft fails"


def test_rollouts_of_predictions_have_the_same_names(
    both: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    from flowtune_cli.flow.postprocessing import ROLLOUTS

    played, exported = both
    for episode in (played, exported):
        for rollout in episode[ROLLOUTS]:
            assert rollout.keys() > {"node", "step", "alternative", "result"}
