"""The page of a report: one HTML file without scripts, that needs nothing but itself."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ..runs.export import PreferenceInContext
from .figures import RunFigures
from .plots import DASHES, Line, Plot, draw
from .words import Piece, marked

_UPDATES = (
    ("loss", "Loss", "Mean over an update's data."),
    ("margin", "Implicit reward margin", "Of the preferences, before the update."),
    ("accuracy", "Preference accuracy", "Share of margins above zero."),
    ("reference_drift", "Drift from reference", "Norm of the difference of weights."),
)


_MARKS = 24
_DECISIONS = 12


@dataclass(frozen=True)
class Legend:
    """What a line of a plot is: its name, colour and dashes."""

    name: str
    number: int
    dash: str
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A plot with what is written about it."""

    title: str
    note: str
    svg: str
    legend: Sequence[Legend]


@dataclass(frozen=True)
class Shown:
    """A preference with the words that differ."""

    preference: PreferenceInContext
    chosen: Sequence[Piece]
    rejected: Sequence[Piece]


def render(runs: Sequence[RunFigures], command: Sequence[str]) -> str:
    """The page.

    Args:
        runs: the first is told first; several are compared.
        command: the one that made the page.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("flowtune_cli.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "share": _share, "duration": _duration}
    environment.filters["count"] = "{:,}".format
    environment.filters["when"] = lambda iso: iso.replace("T", " ").replace("+00:00", " UTC")
    return environment.get_template("page.html.jinja").render(
        runs=[_run(figures, number) for number, figures in enumerate(runs)],
        comparison=list(_compared(runs)) if len(runs) > 1 else [],
        metrics=_names(runs),
        labels=_labels(runs),
        made=datetime.now(timezone.utc).isoformat(timespec="minutes"),
        command=shlex.join(command),
    )


def _run(figures: RunFigures, number: int) -> dict[str, Any]:
    changed, rest = _settings(figures.settings)
    return {
        "figures": figures,
        "anchor": f"run-{number}",
        "curves": list(_curves(figures, number)),
        "learning": list(_learning(figures, number)),
        "sample": {
            node: [Shown(p, *marked(p.chosen, p.rejected)) for p in preferences]
            for node, preferences in figures.sample.items()
        },
        "decisions": figures.references[-_DECISIONS:],
        "changed": changed,
        "rest": rest,
        "data": figures.settings.get("data"),
        "from": figures.settings.get("from"),
    }


def _curves(figures: RunFigures, run: int) -> Iterator[Figure]:
    """Progressive validation: a plot for each metric."""
    decided = frozenset(_thinned([episodes for episodes, _ in figures.references]))
    moved = _thinned([e for e, moved in figures.references if any(moved.values())])
    for number, (name, points) in enumerate(figures.metrics.items()):
        overall = [(float(p.episodes), p.metric.overall) for p in points]
        window = [(float(p.episodes), p.metric.window) for p in points]
        lines = [Line(overall, 0), Line(window, 1, decided, thin=True)]
        last = points[-1].metric
        undefined = f", undefined for {last.undefined:,}" if last.undefined else ""
        plot = Plot(lines, unit=_within_unit(lines), events=moved)
        yield Figure(
            name,
            f"over {last.defined:,} episodes{undefined}",
            "" if plot.empty else draw(plot, f"r{run}m{number}"),
            [
                Legend("all episodes so far", 0, _dash(0), _number(last.overall)),
                Legend("the window", 1, _dash(1), _number(last.window)),
            ],
        )


def _learning(figures: RunFigures, run: int) -> Iterator[Figure]:
    """What the updates did: a plot for each figure of theirs, with a line for each node."""
    names = list(figures.updates)
    for field, title, note in _UPDATES:
        lines = [
            Line([(float(p.episodes), getattr(p.update, field)) for p in points], number)
            for number, points in enumerate(figures.updates.values())
        ]
        plot = Plot(lines, unit=field == "accuracy")
        if not plot.empty:
            svg = draw(plot, f"r{run}{field}")
            yield Figure(title, note, svg, [Legend(n, i, _dash(i)) for i, n in enumerate(names)])


def _compared(runs: Sequence[RunFigures]) -> Iterator[Figure]:
    """A plot for each metric, with a line for each run."""
    legend = [Legend(label, n, _dash(n)) for n, label in enumerate(_labels(runs))]
    for number, name in enumerate(_names(runs)):
        lines = [
            Line([(float(p.episodes), p.metric.overall) for p in run.metrics.get(name, ())], n)
            for n, run in enumerate(runs)
        ]
        plot = Plot(lines, unit=_within_unit(lines))
        svg = "" if plot.empty else draw(plot, f"c{number}")
        yield Figure(name, "over all episodes so far", svg, legend)


def _names(runs: Sequence[RunFigures]) -> list[str]:
    """The metrics of all runs, each once."""
    return list(dict.fromkeys(name for run in runs for name in run.metrics))


def _labels(runs: Sequence[RunFigures]) -> list[str]:
    """What the runs are called; by their paths where two have one name."""
    names = [run.info.name for run in runs]
    return [
        name if names.count(name) == 1 else str(run.info.path)
        for name, run in zip(names, runs, strict=True)
    ]


def _settings(stored: Mapping[str, Any]) -> tuple[list[tuple[str, str, str]], ...]:
    """(setting, value, origin): those that somebody set, and those left as flowtune has them."""
    values = stored.get("settings", stored)
    origins = stored.get("origins", {})
    chosen: list[tuple[str, str, str]] = []
    untouched: list[tuple[str, str, str]] = []
    for key, shown in _flat(values, origins):
        origin = origins.get(key, {"layer": "", "text": ""})
        text = origin["text"] + (f" (run {origin['run']})" if "run" in origin else "")
        rows = untouched if origin["layer"] in ("default", "task") else chosen
        rows.append((key, shown, text))
    return chosen, untouched


def _flat(values: Any, origins: Mapping[str, Any], key: str = "") -> Iterator[tuple[str, str]]:
    """Each setting with its value; a table that came from one place is one setting."""
    if isinstance(values, Mapping) and values and key not in origins:
        for name, value in values.items():
            yield from _flat(value, origins, f"{key}.{name}" if key else str(name))
    elif key:
        yield key, values if isinstance(values, str) else json.dumps(values, ensure_ascii=False)


def _thinned(episodes: Sequence[int]) -> list[float]:
    """So few of them that they can be told apart in a plot, the last among them."""
    step = -(-len(episodes) // _MARKS)
    return [float(number) for number in episodes[::-1][:: step or 1]]


def _within_unit(lines: Sequence[Line]) -> bool:
    return all(y is None or 0 <= y <= 1 for line in lines for _, y in line.points)


def _dash(number: int) -> str:
    return " ".join(str(part) for part in DASHES[number % len(DASHES)])


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
