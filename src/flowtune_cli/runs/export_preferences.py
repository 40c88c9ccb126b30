"""Writes preferences as JSON lines that preference trainers read: prompt, chosen, rejected."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from .preference_reader import PreferenceWithPrompt

Messages = list[dict[str, str]]

Split = Callable[[str], tuple[Messages, str] | None]
"""Parses a prompt that a chat template made: its messages and the prefill of the answer.

None if the prompt is not in the template.
"""


@dataclass
class ExportResult:
    """What was exported.

    Args:
        lines: the number of lines written.
        chat: whether they are conversations; otherwise they are plain texts.
        skipped: by node, the number of preferences between outputs that are not completions of
            the prompt.
    """

    lines: int
    chat: bool
    skipped: Counter[str]


def completions(preference: PreferenceWithPrompt, nodes: Mapping[str, Any]) -> list[str] | None:
    """The chosen and the rejected text as completions of the prompt; None if they are not.

    Args:
        nodes: the settings of the run's nodes, by name.
    """
    pair = [preference.chosen, preference.rejected]
    if preference.generated:
        return pair
    # A node that scores labels as completions of the prompt could have generated them.
    settings = nodes.get(preference.node, {})
    labels = {str(label).strip(): str(label) for label in settings.get("labels", ())}
    if settings.get("score") == "choice" and all(text in labels for text in pair):
        return [labels[text] for text in pair]
    return None


def is_chat(
    preferences: Iterable[PreferenceWithPrompt], nodes: Mapping[str, Any], split: Split
) -> bool:
    """Whether all can be conversations, since a column of a dataset has one type."""
    found = False
    for preference in preferences:
        if completions(preference, nodes) is not None:
            found = True
            if split(preference.prompt) is None:
                return False
    return found


def write_preferences(
    file: IO[str],
    preferences: Iterable[PreferenceWithPrompt],
    nodes: Mapping[str, Any],
    split: Split | None,
) -> ExportResult:
    """Write a line for each preference between completions.

    Args:
        nodes: the settings of the run's nodes, by name.
        split: to write conversations; None writes prompts as the model saw them, as plain text.
    """
    exported = ExportResult(0, split is not None, Counter())
    for preference in preferences:
        texts = completions(preference, nodes)
        if texts is None:
            exported.skipped[preference.node] += 1
            continue
        if split is None:
            line: dict[str, Any] = _plain(preference.prompt, texts)
        else:
            parsed = split(preference.prompt)
            assert parsed is not None, "is_chat has checked it"
            line = _chat(*parsed, texts)
        metadata = {
            "node": preference.node,
            "margin": preference.margin,
            "episode": preference.episode,
            "step": preference.step,
            "alternative": preference.alternative,
            "example_id": preference.example_id,
            "adapter_version": preference.adapter_version,
            "truncated": preference.truncated,
        }
        file.write(json.dumps(line | metadata, ensure_ascii=False) + "\n")
        exported.lines += 1
    return exported


def _plain(prompt: str, texts: Sequence[str]) -> dict[str, Any]:
    chosen, rejected = (_space(prompt, text) + text for text in texts)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _chat(messages: Messages, prefill: str, texts: Sequence[str]) -> dict[str, Any]:
    chosen, rejected = (prefill + _space(prefill, text) + text for text in texts)
    return {
        "prompt": messages,
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def _space(before: str, text: str) -> str:
    """The space that was stripped from an output, if the text needs one after ``before``."""
    separated = not before or before[-1].isspace() or text[:1].isspace()
    return "" if separated else " "
