"""What ``flowtune eval`` prints: a row for each figure of each flow, and what to know of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .contestants import Contestant, Played
    from .paired_bootstrap import Interval, Paired, Wins

COLUMNS = ["figure", "flow", "value", "95 %", "difference", "95 % of it", "wins", "examples"]
_FEW = 20
"""Examples with which an interval of the bootstrap is clearly too narrow."""

TaskFigures = Mapping[str, tuple[Any, "Sequence[float] | None"]]
"""Of the task's own evaluation: value and interval."""


def reward_rows(
    found: Sequence[Contestant], figures: Mapping[str, list[Paired]], count: int
) -> Iterator[dict[str, str]]:
    """The rewards: means over the examples where they are defined.

    Args:
        count: how many examples there are.
    """
    for name, of_flows in figures.items():
        for each, figure in zip(found, of_flows, strict=True):
            yield {
                "figure": name,
                "flow": each.name,
                "value": _number(figure.value),
                "95 %": _interval(figure.interval),
                "difference": "" if figure.wins is None else _number(figure.difference, "+"),
                "95 % of it": _interval(figure.difference_interval, "+"),
                "wins": _wins(figure.wins),
                "examples": f"{figure.defined} of {count}",
            }


def task_rows(
    found: Sequence[Contestant],
    all_played: Sequence[Played],
    task_figures: Sequence[TaskFigures],
    figures: Mapping[str, list[Paired]],
    count: int,
) -> Iterator[dict[str, str]]:
    """Those of the task's own evaluation that are no rewards.

    One that has a reward's name, and another value, is told from it.
    """
    names = dict.fromkeys(name for of_flow in task_figures for name in of_flow)
    for name in names:
        shown = name
        if name in figures:
            pairs = zip(task_figures, figures[name], strict=True)
            if all(_is_same(own.get(name, (None, None))[0], reward.value) for own, reward in pairs):
                continue
            shown = f"{name} (task's own)"
        for each, played, of_flow in zip(found, all_played, task_figures, strict=True):
            value, interval = of_flow.get(name, (None, None))
            yield {
                **dict.fromkeys(COLUMNS, ""),
                "figure": shown,
                "flow": each.name,
                "value": _number(value) if value is None or isinstance(value, float) else value,
                "95 %": _interval(interval),
                "examples": f"{len(played.rewards)} of {count}",
            }


def _is_same(own: Any, reward: float | None) -> bool:
    if reward is None or not isinstance(own, (int, float)):
        return own == reward
    return math.isclose(own, reward, rel_tol=1e-6, abs_tol=1e-9)


def judged_rows(
    found: Sequence[Contestant], gains: Mapping[str, Sequence[Wins | None]]
) -> Iterator[dict[str, str]]:
    """What evaluators say, of each flow but the first."""
    for name, of_flows in gains.items():
        for each, wins in zip(found, of_flows, strict=True):
            if wins is not None:
                row = {"figure": name, "flow": each.name, "wins": _wins(wins)}
                yield {**dict.fromkeys(COLUMNS, ""), **row}


def notes_on(all_played: Sequence[Played], figures: Mapping[str, list[Paired]]) -> Iterator[str]:
    """What has to be known so as not to read more into the figures than they say."""
    other_sets = [
        name
        for name in figures
        if len({frozenset(_defined(played, name)) for played in all_played}) > 1
    ]
    if other_sets:
        yield (
            f"the means of {', '.join(other_sets)} are not of the same examples for all flows, as"
            " some failed or are undefined: differences and wins are of those that both flows have"
        )
    fewest = [paired.defined for of_flows in figures.values() for paired in of_flows]
    if any(0 < number < _FEW for number in fewest):
        yield f"intervals of fewer than {_FEW} examples are too narrow: take more examples"


def _defined(played: Played, name: str) -> Iterator[int]:
    """The examples for which a flow has a reward."""
    return (n for n, rewards in played.rewards.items() if rewards.get(name) is not None)


def _number(value: float | None, sign: str = "") -> str:
    return "undefined" if value is None else f"{value:{sign}.3f}"


def _interval(ends: Interval | Sequence[float] | None, sign: str = "") -> str:
    return "" if ends is None else f"{ends[0]:{sign}.3f} to {ends[1]:{sign}.3f}"


def _wins(wins: Wins | None) -> str:
    if wins is None:
        return ""
    if not wins.compared:
        return "nothing to compare"
    shares = [
        f"{getattr(wins, what) / wins.compared:.0%} {word}"
        for what, word in (("better", "better"), ("worse", "worse"), ("ties", "alike"))
    ]
    return f"{', '.join(shares)} of {wins.compared}"
