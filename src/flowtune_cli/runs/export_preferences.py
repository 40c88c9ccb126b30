"""Preferences as lines of JSON that trainers for preferences read: prompt, chosen, rejected."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from .export import PreferenceInContext

Messages = list[dict[str, str]]


Split = Callable[[str], tuple[Messages, str] | None]
"""Takes a prompt out of the model's chat template: its messages, and how the answer begins.

None if it is not in the template.
"""


@dataclass
class Written:
    """What became of the preferences.

    Args:
        lines: how many were written.
        chat: they are conversations; else plain texts.
        left_out: by node how many are not about texts that the model writes after the prompt.
    """

    lines: int
    chat: bool
    left_out: Counter[str]


def completions(preference: PreferenceInContext, nodes: Mapping[str, Any]) -> list[str] | None:
    """The chosen and the rejected text as they follow the prompt; None if they do not.

    Args:
        nodes: the settings of the run's nodes, by name.
    """
    pair = [preference.chosen, preference.rejected]
    if preference.written:
        return pair
    # A node that chooses among labels by their likelihood after the prompt could have written one.
    settings = nodes.get(preference.node, {})
    labels = {str(label).strip(): str(label) for label in settings.get("labels", ())}
    if settings.get("score") == "choice" and all(text in labels for text in pair):
        return [labels[text] for text in pair]
    return None


def is_chat(
    preferences: Iterable[PreferenceInContext], nodes: Mapping[str, Any], split: Split
) -> bool:
    """Whether all can be conversations: a column of a data set has one type."""
    found = False
    for preference in preferences:
        if completions(preference, nodes) is not None:
            found = True
            if split(preference.prompt) is None:
                return False
    return found


def write_preferences(
    file: IO[str],
    preferences: Iterable[PreferenceInContext],
    nodes: Mapping[str, Any],
    split: Split | None,
) -> Written:
    """Write a line for each preference between texts.

    Args:
        nodes: the settings of the run's nodes, by name.
        split: writes conversations; None writes prompts as the model saw them, in plain text.
    """
    written = Written(0, split is not None, Counter())
    for preference in preferences:
        texts = completions(preference, nodes)
        if texts is None:
            written.left_out[preference.node] += 1
            continue
        if split is None:
            shown: dict[str, Any] = _plain(preference.prompt, texts)
        else:
            found = split(preference.prompt)
            assert found is not None, "is_chat has looked"
            shown = _chat(*found, texts)
        about = {
            "node": preference.node,
            "margin": preference.margin,
            "episode": preference.episode,
            "step": preference.step,
            "alternative": preference.alternative,
            "example_id": preference.example_id,
            "adapter_version": preference.adapter_version,
            "truncated": preference.truncated,
        }
        file.write(json.dumps(shown | about, ensure_ascii=False) + "\n")
        written.lines += 1
    return written


def _plain(prompt: str, texts: Sequence[str]) -> dict[str, Any]:
    chosen, rejected = (_lead(prompt, text) + text for text in texts)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _chat(messages: Messages, prefill: str, texts: Sequence[str]) -> dict[str, Any]:
    chosen, rejected = (prefill + _lead(prefill, text) + text for text in texts)
    return {
        "prompt": messages,
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def _lead(before: str, text: str) -> str:
    """The space that a node takes off its output, where the text would stick to what is before."""
    apart = not before or before[-1].isspace() or text[:1].isspace()
    return "" if apart else " "
