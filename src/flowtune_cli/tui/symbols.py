"""Symbols, words and colours for outcomes, run states and problems; no meaning by colour alone."""

from __future__ import annotations

from dataclasses import dataclass

from textual.content import Content

from ..flow.deviation import Outcome
from ..runs.records import EpisodeSummary, RolloutRecord
from .formatting import UNKNOWN, signed


@dataclass(frozen=True)
class Badge:
    symbol: str
    word: str
    style: str

    @property
    def content(self) -> Content:
        return Content.assemble((f"{self.symbol} {self.word}", self.style))


OUTCOMES = {
    Outcome.ALTERNATIVE_BETTER: Badge("▲", "better", "$text-success bold"),
    Outcome.GREEDY_BETTER: Badge("▼", "worse", "$text-error"),
    Outcome.TIE: Badge("=", "tie", "$text-muted"),
    Outcome.UNDEFINED: Badge("?", "undefined", "$text-warning"),
    Outcome.FAILED: Badge("✗", "FAILED", "$text-error bold"),
    Outcome.EVALUATOR_FAILED: Badge("⊗", "EVALUATOR FAILED", "$text-error bold"),
    Outcome.SKIPPED: Badge("○", "skipped", "$text-muted"),
}
STATES = {
    "training": Badge("●", "training", "$text-success bold"),
    "finished": Badge("✓", "finished", "$text-success"),
    "stopped": Badge("■", "stopped", "$text-warning"),
    "failed": Badge("✗", "failed", "$text-error bold"),
    "interrupted": Badge("!", "interrupted", "$text-warning bold"),
    "unreadable": Badge("?", "unreadable", "$text-error bold"),
}
PREFERENCE = Badge("★", "preference", "$text-accent bold")

LEGEND = (
    *((badge.symbol, f"the alternative: {badge.word}") for badge in OUTCOMES.values()),
    ("★", "made a preference"),
    ("◆", "below a plot: references moved"),
    ("⊘", "substituted: an alternative in place of the output"),
    ("≠", "the rollout differs from the episode here"),
    ("FAIL", "the flow failed"),
    ("CUT", "an output was truncated"),
    ("SHORT", "a prompt was shortened to fit the context"),
)
"""Every symbol and its meaning, for the help."""


def outcome_label(rollout: RolloutRecord) -> Content:
    """A rollout's gain, or the symbol of its outcome."""
    if rollout.gain is not None:
        return gain_label(rollout.gain)
    badge = OUTCOMES[rollout.outcome]
    return Content.assemble((badge.symbol, badge.style))


def gain_label(value: float | None) -> Content:
    """The gain of an alternative over the greedy output; None if none was compared."""
    if value is None:
        return Content(UNKNOWN)
    if not value:
        return Content.assemble((OUTCOMES[Outcome.TIE].symbol, OUTCOMES[Outcome.TIE].style))
    badge = OUTCOMES[Outcome.ALTERNATIVE_BETTER if value > 0 else Outcome.GREEDY_BETTER]
    return Content.assemble((f"{badge.symbol}{signed(value, 2)}", badge.style))


def problem_flags(episode: EpisodeSummary) -> Content:
    """The problems of an episode: failed, truncated, shortened."""
    parts = []
    if episode.error is not None:
        parts.append(("FAIL", "$text-error bold"))
    if episode.truncated:
        parts.append((f"CUT{episode.truncated}", "$text-warning"))
    if episode.dropped_tokens:
        parts.append(("SHORT", "$text-warning"))
    return Content(" ").join([Content.assemble(part) for part in parts])
