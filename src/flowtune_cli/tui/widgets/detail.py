"""The details of a step or a rollout, as text."""

from __future__ import annotations

from collections.abc import Iterable

from textual.content import Content

from ...flow.effect import EffectRecord
from ...flow.episode import RequestError
from ...runs.records import EpisodeRecord, RolloutRecord, StepRecord
from ...runs.serialization import to_json, visible
from ..explanations import endings_of, explain_rollout, explain_step, preference_of
from ..formatting import number, one_line, signed
from ..screen_export import alternative_text, effects_at
from ..step_alignment import AlignedSteps, align_steps
from ..symbols import OUTCOMES, PREFERENCE
from ..word_diff import Part, word_diff

_HEAD = "bold $text-accent"
Lines = list[Content]


def step_detail(episode: EpisodeRecord, step: StepRecord) -> Content:
    """A step: prompt, output, alternatives, and what it gave to learn from."""
    lines: Lines = [
        Content.assemble(
            (f"step {step.index}  {step.node}", _HEAD), f"  adapter version {step.adapter_version}"
        )
    ]
    lines += _effects("effects before it", effects_at(episode, step.index))
    cut = f", SHORTENED by {step.dropped_tokens}" if step.dropped_tokens else ""
    lines += _heading("prompt", f"{step.prompt_tokens} tokens{cut}")
    lines += _quoted(step.prompt, "$text-muted")
    lines += _heading("output", _output_note(step.tokens, step.logprob, step.truncated))
    lines += _quoted(step.output, "bold")
    for reward in episode.rewards:
        if reward.steps == step.index + 1:
            lines.append(Content(f"then reward {reward.name} = {number(reward.value)}"))
    for target in episode.targets:
        if target.step == step.index:
            lines += _heading("target", "")
            lines += _quoted(to_json(target.gold) or "null", "")
    if step.alternatives:
        lines += _heading("alternatives", "")
    tried = [rollout for rollout in episode.rollouts if rollout.step == step.index]
    for alternative in step.alternatives:
        how = [_outcome(episode, r) for r in tried if r.alternative == alternative.number]
        for each in how or [Content("not tried")]:
            lines.append(Content.assemble(f"{alternative.number} ", each))
        lines += _quoted(alternative.text, "", indent="    ")
    lines += _heading("training data", "")
    lines.append(Content(explain_step(episode, step)))
    if step is episode.steps[-1]:
        lines += _effects("effects after it", effects_at(episode, step.index + 1))
        lines += _request_errors("requests of the episode that failed", episode.request_errors)
    if step.detail:
        lines += _heading("detail", "")
        lines += [
            Content(visible(f"{key}: {to_json(value)}")) for key, value in step.detail.items()
        ]
    return Content("\n").join(lines)


def rollout_detail(
    episode: EpisodeRecord, rollout: RolloutRecord, *, diff: bool, width: int
) -> Content:
    """An alternative: outcome, preference, and the rollout beside the episode.

    Args:
        diff: show the two outputs word by word.
        width: of the pane, in cells.
    """
    title = f"step {rollout.step}  {rollout.node}  alternative {rollout.alternative}"
    lines: Lines = [Content.assemble((title, _HEAD)), _outcome(episode, rollout)]
    lines.append(Content(visible(f"preference: {explain_rollout(episode, rollout)}")))
    lines += _outputs(episode, rollout, diff=diff)
    pairs = align_steps(episode, rollout)
    if pairs:
        first = next((pair.index for pair in pairs if pair.first), None)
        about = f"first difference at step {first}"
        if first is None:
            about = "no later step differs" if len(pairs) > 1 else "no later step"
        lines += _heading("episode │ rollout", about)
        lines += [_aligned_line(pair, width) for pair in pairs]
        if rollout.stopped_early:
            lines.append(Content("the rollout stopped here, at its reward"))
        elif rollout.result is not None:
            lines.append(Content(visible(f"its result: {to_json(rollout.result)}")))
    lines += _effects("effects of the rollout", rollout.effects)
    lines += _request_errors("requests of the rollout that failed", rollout.request_errors)
    for count, call in enumerate(rollout.evaluator_calls, 1):
        cut = f"SHORTENED by {call.dropped_tokens} tokens" if call.dropped_tokens else ""
        lines += _heading(f"prompt {count} of the evaluator", cut)
        lines += _quoted(call.prompt, "$text-muted")
        lines += [
            Content(visible(f"→ {text or '(nothing)'}  logprob {number(logprob, 2)}"))
            for text, logprob in call.answers
        ]
    if rollout.traceback:
        lines += _heading("traceback", "")
        lines += _quoted(rollout.traceback, "")
    return Content("\n").join(lines)


def _effects(title: str, effects: Iterable[EffectRecord]) -> Lines:
    """Effects, each with its arguments and its end."""
    lines: Lines = []
    for effect in effects:
        if not lines:
            lines += _heading(title, "")
        note = "  as before" if effect.again else ""
        lines.append(Content.assemble(visible(effect.call_text), (note, "$text-muted")))
        lines += _quoted(effect.end_text, "$text-error" if effect.error else "", indent="  → ")
    return lines


def _request_errors(title: str, errors: Iterable[RequestError]) -> Lines:
    """Requests that were answered with an error, each with the line that made it."""
    lines: Lines = []
    for error in errors:
        if not lines:
            lines += _heading(title, "")
        lines += _quoted(error.message, "$text-error")
        if error.place:
            lines += _quoted(error.place, "$text-muted", indent="  ")
    return lines


def _outcome(episode: EpisodeRecord, rollout: RolloutRecord) -> Content:
    badge = OUTCOMES[rollout.outcome]
    parts = [badge.content]
    if len(endings_of(episode, rollout)) > 1:
        parts.insert(0, Content(f"ending {rollout.ending}"))
    if rollout.gain is not None:
        parts.append(Content(f"gain {signed(rollout.gain)}"))
    if rollout.greedy_reward is not None and rollout.alternative_reward is not None:
        rewards = f"({number(rollout.greedy_reward)} → {number(rollout.alternative_reward)})"
        parts.append(Content(rewards))
    if preference_of(episode, rollout) is not None:
        parts.append(PREFERENCE.content)
    return Content("  ").join(parts)


def _outputs(episode: EpisodeRecord, rollout: RolloutRecord, *, diff: bool) -> Lines:
    """The greedy output and the alternative; as chosen and rejected if there is a preference."""
    preference = preference_of(episode, rollout)
    if preference is not None:
        one, other = ("chosen", preference.chosen), ("rejected", preference.rejected)
    else:
        greedy = next((s.output for s in episode.steps if s.index == rollout.step), "")
        one = ("greedy output", greedy)
        other = (f"alternative {rollout.alternative}", alternative_text(episode, rollout))
    if not diff:
        return [
            *_heading(one[0], ""),
            *_quoted(one[1], "bold"),
            *_heading(other[0], ""),
            *_quoted(other[1], "bold"),
        ]
    first, second = word_diff(visible(one[1]), visible(other[1]))
    return [
        *_heading(one[0], "[+only here+]"),
        _parts(first, "[+", "+]", "$text-success bold"),
        *_heading(other[0], "[-only here-]"),
        _parts(second, "[-", "-]", "$text-error bold"),
    ]


def _parts(parts: list[Part], begin: str, end: str, style: str) -> Content:
    marked = [
        (f"{begin}{text}{end}", style) if kind == "only" else (text, "") for kind, text in parts
    ]
    return Content.assemble(*marked) if marked else Content("(nothing)")


def _aligned_line(pair: AlignedSteps, width: int) -> Content:
    """A step of episode and rollout on one line."""
    half = max(12, (width - 9) // 2)
    mark = "≠ first" if pair.first else "≠" if pair.differs else "="
    style = "$text-warning bold" if pair.first else "" if pair.differs else "$text-muted"

    def side(step: StepRecord | None) -> Content:
        if step is None:
            return Content("(ended)").truncate(half, pad=True)
        mark = "⊘ " if step.substituted else ""
        text = f"{mark}{step.index} {step.node}: {one_line(step.output) or '(nothing)'}"
        return Content(text).truncate(half, ellipsis=True, pad=True)

    return Content.assemble(side(pair.episode), "│", side(pair.rollout), (mark, style))


def _heading(title: str, note: str) -> Lines:
    return [
        Content(""),
        Content.assemble((title, "bold"), (f"  {note}" if note else "", "$text-muted")),
    ]


def _quoted(text: str, style: str, indent: str = "  ") -> Lines:
    content = visible(text.rstrip("\n")) or "(nothing)"
    return [Content.assemble((f"{indent}{line}", style)) for line in content.split("\n")]


def _output_note(tokens: int, logprob: float | None, truncated: bool) -> str:
    parts = [f"{tokens} tokens"] if tokens else []
    parts += [] if logprob is None else [f"logprob {logprob:.2f}"]
    parts += ["TRUNCATED"] if truncated else []
    return ", ".join(parts)
