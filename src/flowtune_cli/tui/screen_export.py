"""Exports a screen to a file: Markdown or JSON lines, by the file's ending."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..flow.effect import EffectRecord
from ..flow.episode import RequestError
from ..flow.errors import UsageError
from ..runs.atomic import write_bytes
from ..runs.records import EpisodeRecord, RolloutRecord, StepRecord
from ..runs.serialization import to_json
from .explanations import endings_of, explain_rollout, explain_step, preference_of
from .formatting import number, signed

ENDINGS = (".md", ".jsonl")


@dataclass(frozen=True)
class ScreenExport:
    """An export of a screen; the content is computed in ``write``, in any thread.

    Args:
        name: the file's name without its ending.
        what: the content in words, such as "36 episodes".
        records: the values of the JSON lines.
    """

    name: str
    what: str
    records: Callable[[], Iterable[Any]]
    markdown: Callable[[], str]

    def write(self, path: Path) -> None:
        """Write the file atomically.

        Raises:
            UsageError: its ending is none of ``ENDINGS``.
            FlowtuneError: it cannot be written.
        """
        if path.suffix == ".md":
            lines: Iterable[str] = [self.markdown()]
        elif path.suffix == ".jsonl":
            lines = ((to_json(record) or "null") + "\n" for record in self.records())
        else:
            raise UsageError(f"{path} must end with {' or '.join(ENDINGS)}")
        write_bytes(path, (line.encode("utf-8", "backslashreplace") for line in lines))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [list(columns), ["---"] * len(columns), *rows]
    cells = ([" ".join(str(cell).replace("|", "\\|").split()) for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def fenced(text: str) -> str:
    """A text as a code block, with a fence that it does not contain."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text.rstrip()}\n{fence}\n"


def episode_markdown(run: str, episode: EpisodeRecord) -> str:
    """A whole episode."""
    parts = [
        f"# {run}, episode {episode.number}\n",
        f"{episode.question}\n",
        "".join(
            f"- {name}: `{value}`\n"
            for name, value in {
                "example": episode.example_id,
                "gold": to_json(episode.gold),
                "result": to_json(episode.result),
                **{f"reward {r.name}": number(r.value) for r in episode.rewards},
            }.items()
        ),
    ]
    if episode.error is not None:
        parts.append(f"The flow failed: {episode.error}\n\n{fenced(episode.traceback or '')}")
    parts += _request_errors("request of the episode that failed", episode.request_errors)
    parts += [step_markdown(episode, step) for step in episode.steps]
    return "\n".join(parts)


def step_markdown(episode: EpisodeRecord, step: StepRecord) -> str:
    """A step with its alternatives."""
    after = effects_at(episode, step.index + 1)
    parts = [
        f"## Step {step.index}: {step.node} (adapter version {step.adapter_version})\n",
        *_effects("effect before it", effects_at(episode, step.index)),
        f"Prompt:\n\n{fenced(step.prompt)}",
        f"Output{' (truncated)' if step.truncated else ''}:\n\n{fenced(step.output)}",
        f"Training data: {explain_step(episode, step)}.\n",
        *(_effects("effect after it", after) if step is episode.steps[-1] else ()),
    ]
    parts += [
        rollout_markdown(episode, rollout)
        for rollout in episode.rollouts
        if rollout.step == step.index
    ]
    return "\n".join(parts)


def rollout_markdown(episode: EpisodeRecord, rollout: RolloutRecord) -> str:
    """An alternative, its outcome, and its preference."""
    text = alternative_text(episode, rollout)
    ending = f", ending {rollout.ending}" if len(endings_of(episode, rollout)) > 1 else ""
    parts = [
        f"### Alternative {rollout.alternative} of step {rollout.step}{ending}:"
        f" {rollout.outcome.value},"
        f" gain {signed(rollout.gain)}\n",
        fenced(text),
        f"Preference: {explain_rollout(episode, rollout)}.\n",
    ]
    preference = preference_of(episode, rollout)
    if preference is not None:
        parts.append(f"Chosen:\n\n{fenced(preference.chosen)}")
        parts.append(f"Rejected:\n\n{fenced(preference.rejected)}")
    steps = [(f"{step.index}", step.node, step.output) for step in rollout.steps]
    if steps:
        parts.append(table(["step", "node", "output in the rollout"], steps))
    parts += _effects("effect of the rollout", rollout.effects)
    parts += _request_errors("request of the rollout that failed", rollout.request_errors)
    for call in rollout.evaluator_calls:
        parts.append(f"The evaluator showed the model:\n\n{fenced(call.prompt)}")
        answers = [(text, number(logprob)) for text, logprob in call.answers]
        parts.append(table(["answer", "logprob"], answers))
    return "\n".join(parts)


def effects_at(episode: EpisodeRecord, steps: int) -> list[EffectRecord]:
    """The episode's effects after this number of steps."""
    return [effect for effect in episode.effects if effect.steps == steps]


def _effects(title: str, effects: Iterable[EffectRecord]) -> list[str]:
    """Effects as a table; nothing where there are none."""
    rows = [(effect.call_text, effect.end_text) for effect in effects]
    return [table([title, "end"], rows)] if rows else []


def _request_errors(title: str, errors: Iterable[RequestError]) -> list[str]:
    rows = [(error.message, error.place or "") for error in errors]
    return [table([title, "place"], rows)] if rows else []


def alternative_text(episode: EpisodeRecord, rollout: RolloutRecord) -> str:
    """The alternative output of a rollout."""
    for step in episode.steps:
        for alternative in step.alternatives:
            if (step.index, alternative.number) == (rollout.step, rollout.alternative):
                return alternative.text
    return ""


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as ``section.key`` and value."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
