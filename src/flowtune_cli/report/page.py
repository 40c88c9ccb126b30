"""Renders the report page: one self-contained HTML file without scripts."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ..runs.evaluations import best_of
from ..runs.preference_reader import PreferenceWithPrompt
from ..runs.usage import used_text
from .plots import DASHES, Line, Plot, draw
from .summary import RunSummary
from .word_diff import Piece, mark_differences

_UPDATE_PLOTS = (
    ("loss", "Loss", "Mean over an update's data."),
    ("margin", "Implicit reward margin", "Of the preferences, before the update."),
    ("accuracy", "Preference accuracy", "Share of margins above zero."),
    ("reference_drift", "Drift from reference", "Norm of the difference of weights."),
)

_MAX_MARKS = 24
"""Marks in one plot."""
_MAX_WINDOWS = 12
"""Rows in the table of reference updates."""
_MAX_EVALUATIONS = 24
"""Rows in the table of evaluations."""


@dataclass(frozen=True)
class Legend:
    """The legend of one line: its name, colour number and dashes."""

    name: str
    number: int
    dash: str
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A plot with its title, note and legend."""

    title: str
    note: str
    svg: str
    legend: Sequence[Legend]


@dataclass(frozen=True)
class MarkedPreference:
    """A preference whose differing words are marked."""

    preference: PreferenceWithPrompt
    chosen: Sequence[Piece]
    rejected: Sequence[Piece]


def render(runs: Sequence[RunSummary], command: Sequence[str]) -> str:
    """The page.

    Args:
        runs: in the order of the page; several are also compared.
        command: the command line that makes the page.
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
        runs=[_run(run, number) for number, run in enumerate(runs)],
        comparison=list(_comparison(runs)) if len(runs) > 1 else [],
        played_others=_played_others(runs),
        metrics=_metric_names(runs),
        labels=_labels(runs),
        made=datetime.now(timezone.utc).isoformat(timespec="minutes"),
        command=shlex.join(command),
    )


def _run(run: RunSummary, number: int) -> dict[str, Any]:
    changed, defaults = _settings(run.settings)
    return {
        "summary": run,
        "anchor": f"run-{number}",
        "used": used_text(run.info.usage, run.nodes),
        "curves": list(_curves(run, number)),
        "learning": list(_learning(run, number)),
        "evaluations": run.evaluations[-_MAX_EVALUATIONS:],
        "best": best_of(run.evaluations),
        "held_out": list(dict.fromkeys(n for each in run.evaluations for n in each.figures)),
        "sample": {
            node: [_marked(preference) for preference in preferences]
            for node, preferences in run.sample.items()
        },
        "windows": run.references[-_MAX_WINDOWS:],
        "changed": changed,
        "defaults": defaults,
        "data": run.settings.get("data"),
        "from": run.settings.get("from"),
    }


def _marked(preference: PreferenceWithPrompt) -> MarkedPreference:
    return MarkedPreference(preference, *mark_differences(preference.chosen, preference.rejected))


def _curves(run: RunSummary, run_number: int) -> Iterator[Figure]:
    """Progressive validation: a plot for each metric."""
    window_ends = frozenset(_thin([episodes for episodes, _ in run.references]))
    moves = _thin([e for e, moved in run.references if any(moved.values())])
    for number, (name, points) in enumerate(run.metrics.items()):
        overall = [(float(p.episodes), p.metric.overall) for p in points]
        window = [(float(p.episodes), p.metric.window) for p in points]
        lines = [Line(overall, 0), Line(window, 1, window_ends, thin=True)]
        last = points[-1].metric
        undefined = f", undefined for {last.undefined:,}" if last.undefined else ""
        legend = [
            Legend("all episodes so far", 0, _dash(0), _number(last.overall)),
            Legend("the window", 1, _dash(1), _number(last.window)),
        ]
        held_out = [
            (float(each.episodes), each.figures[name].value)
            for each in run.evaluations
            if name in each.figures
        ]
        if held_out:
            lines.append(Line(held_out, 2, frozenset(episodes for episodes, _ in held_out)))
            legend.append(Legend("held-out examples", 2, _dash(2), _number(held_out[-1][1])))
        plot = Plot(lines, unit=_within_unit(lines), events=moves)
        yield Figure(
            name,
            f"over {last.defined:,} episodes{undefined}",
            "" if plot.empty else draw(plot, f"r{run_number}m{number}"),
            legend,
        )


def _learning(run: RunSummary, run_number: int) -> Iterator[Figure]:
    """The updates: a plot for each of their metrics, with a line for each node."""
    names = list(run.updates)
    for field, title, note in _UPDATE_PLOTS:
        lines = [
            Line([(float(p.episodes), getattr(p.update, field)) for p in points], number)
            for number, points in enumerate(run.updates.values())
        ]
        plot = Plot(lines, unit=field == "accuracy")
        if not plot.empty:
            svg = draw(plot, f"r{run_number}{field}")
            yield Figure(title, note, svg, [Legend(n, i, _dash(i)) for i, n in enumerate(names)])


def _comparison(runs: Sequence[RunSummary]) -> Iterator[Figure]:
    """A plot for each metric, with a line for each run."""
    legend = [Legend(label, n, _dash(n)) for n, label in enumerate(_labels(runs))]
    for number, name in enumerate(_metric_names(runs)):
        lines = [
            Line([(float(p.episodes), p.metric.overall) for p in run.metrics.get(name, ())], n)
            for n, run in enumerate(runs)
        ]
        plot = Plot(lines, unit=_within_unit(lines))
        svg = "" if plot.empty else draw(plot, f"c{number}")
        yield Figure(name, "over all episodes so far", svg, legend)


def _played_others(runs: Sequence[RunSummary]) -> str:
    """Why the means of several runs are not of the same examples; empty if they are."""
    if len({run.info.task for run in runs}) > 1:
        return "the runs are of different tasks"
    if len({_played_data(run) for run in runs}) > 1:
        return "the runs train on different data"
    return "" if len({run.episodes for run in runs}) <= 1 else "some have played more episodes"


def _played_data(run: RunSummary) -> tuple[Any, ...]:
    """What tells the examples of a run from those of another, whatever their order."""
    data = run.settings.get("data") or {}
    path, split, count, available = map(data.get, ("path", "split", "examples", "available"))
    # Where a run takes only some of the data, which ones depends on its seed.
    some = count is not None and available and count % available
    return path, split, count, available, data.get("examples_sha256") if some else None


def _metric_names(runs: Sequence[RunSummary]) -> list[str]:
    """The names of the metrics of all runs, each once."""
    return list(dict.fromkeys(name for run in runs for name in run.metrics))


def _labels(runs: Sequence[RunSummary]) -> list[str]:
    """The names of the runs, or their paths where two have the same name."""
    names = [run.info.name for run in runs]
    return [
        name if names.count(name) == 1 else str(run.info.path)
        for name, run in zip(names, runs, strict=True)
    ]


def _settings(stored: Mapping[str, Any]) -> tuple[list[tuple[str, str, str]], ...]:
    """(setting, value, origin) of the settings that were changed, and of those at their default."""
    values = stored.get("settings", stored)
    origins = stored.get("origins", {})
    changed: list[tuple[str, str, str]] = []
    defaults: list[tuple[str, str, str]] = []
    for key, value in _flatten(values, origins):
        origin = origins.get(key, {"layer": "", "text": ""})
        text = origin["text"] + (f" (run {origin['run']})" if "run" in origin else "")
        rows = defaults if origin["layer"] in ("default", "task") else changed
        rows.append((key, value, text))
    return changed, defaults


def _flatten(values: Any, origins: Mapping[str, Any], key: str = "") -> Iterator[tuple[str, str]]:
    """Each setting with its value; a table with one origin is one setting."""
    if isinstance(values, Mapping) and values and key not in origins:
        for name, value in values.items():
            yield from _flatten(value, origins, f"{key}.{name}" if key else str(name))
    elif key:
        yield key, values if isinstance(values, str) else json.dumps(values, ensure_ascii=False)


def _thin(episodes: Sequence[int]) -> list[float]:
    """Few enough to be distinguishable in a plot, with the last one."""
    step = -(-len(episodes) // _MAX_MARKS)
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
