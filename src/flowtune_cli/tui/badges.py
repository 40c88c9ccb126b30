"""Badges: what became of a thing, as a symbol and a word; the colour only says it again."""

from __future__ import annotations

from dataclasses import dataclass

from textual.content import Content

from ..flow.deviation import Outcome
from ..runs.stored import EpisodeSummary, StoredRollout
from .figures import UNKNOWN, signed


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
CHOSEN = Badge("★", "preference", "$text-accent bold")

LEGEND = (
    *((badge.symbol, f"the alternative: {badge.word}") for badge in OUTCOMES.values()),
    ("★", "it made a preference"),
    ("◆", "at the foot of a plot: references moved"),
    ("⊘", "replaced: an alternative stood in for the output"),
    ("≠", "the rollout differs from the episode here"),
    ("FAIL", "the flow failed"),
    ("CUT", "an output was cut off before it ended"),
    ("SHORT", "a prompt was shortened to fit"),
)
"""Every symbol with its meaning, for the help."""


def gained(rollout: StoredRollout) -> Content:
    """How a rollout ended, in as few letters as say it."""
    if rollout.gain is not None:
        return gain(rollout.gain)
    badge = OUTCOMES[rollout.outcome]
    return Content.assemble((badge.symbol, badge.style))


def gain(value: float | None) -> Content:
    """What an alternative gained over the greedy output; None if none was compared."""
    if value is None:
        return Content(UNKNOWN)
    if not value:
        return Content.assemble((OUTCOMES[Outcome.TIE].symbol, OUTCOMES[Outcome.TIE].style))
    badge = OUTCOMES[Outcome.ALTERNATIVE_BETTER if value > 0 else Outcome.GREEDY_BETTER]
    return Content.assemble((f"{badge.symbol}{signed(value, 2)}", badge.style))


def flags(episode: EpisodeSummary) -> Content:
    """What is wrong with an episode's data."""
    parts = []
    if episode.error is not None:
        parts.append(("FAIL", "$text-error bold"))
    if episode.truncated:
        parts.append((f"CUT{episode.truncated}", "$text-warning"))
    if episode.dropped_tokens:
        parts.append(("SHORT", "$text-warning"))
    return Content(" ").join([Content.assemble(part) for part in parts])
