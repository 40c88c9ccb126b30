"""``flowtune ls``: what there is of one kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..flow.errors import UsageError, unknown_name
from . import options
from .completion import complete_from
from .describe import summary
from .options import ConfigOption, JsonOption, SetOption
from .output import note, print_json, print_rows, warn
from .run_rows import COLUMNS, SORTS, as_text, run_rows

if TYPE_CHECKING:
    from ..registry import Kind, Registry

REGISTERED: dict[str, tuple[Kind, ...]] = {
    "tasks": ("task",),
    "nodes": ("node type",),
    "rewards": ("reward", "evaluator"),
    "explorations": ("exploration",),
    "optimizers": ("optimizer",),
    "postprocessors": ("post-processor",),
    "trackers": ("tracker",),
}
KINDS = [*REGISTERED, "models", "runs"]
DETAILS = ("path", "problem", "ready")
"""What only JSON has."""

Rows = list[dict[str, Any]]


def ls(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="|".join(KINDS), help="What to list.", autocompletion=complete_from(KINDS)
        ),
    ],
    sort: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(SORTS),
            help="The order of runs; by default the oldest first.",
            autocompletion=complete_from(SORTS),
        ),
    ] = None,
    tag: Annotated[
        str | None, typer.Option(metavar="TAG", help="Only runs that have this tag.")
    ] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """List what there is of one kind: tasks, nodes, optimizers, trackers, models, runs ..."""
    from ..registry import load_registry

    if kind not in KINDS:
        raise unknown_name("kind of thing", kind, KINDS)
    if kind != "runs" and (sort is not None or tag is not None):
        raise UsageError("--sort and --tag are for runs: flowtune ls runs")
    registry = load_registry()
    if kind == "models":
        rows = _models(registry)
        _note_failed(registry, "model")
    elif kind == "runs":
        found = options.settings(registry, config=config, overrides=set_)
        rows = run_rows(found.settings.run.directory, sort, tag)
    else:
        rows = _registered(registry, REGISTERED[kind])
        if kind == "tasks":
            rows += _programs(config, set_)
        _note_failed(registry, REGISTERED[kind][0])
    if json:
        print_json(rows)
    elif rows and kind == "runs":
        print_rows(COLUMNS, [as_text(row) for row in rows])
    elif rows:
        print_rows([column for column in rows[0] if column not in DETAILS], rows)
    else:
        where = f" in {found.settings.run.directory.absolute()}" if kind == "runs" else ""
        note(f"there are no {kind}{where}{'' if tag is None else f' with the tag {tag!r}'}")


def _note_failed(registry: Registry, kind: Kind) -> None:
    for plugin in registry.failed(kind):
        warn(f"plugin {plugin} has a problem; see 'flowtune plugins'")


def _registered(registry: Registry, kinds: tuple[Kind, ...]) -> Rows:
    return [
        {
            "name": entry.name,
            "plugin": entry.plugin,
            "distribution": entry.distribution,
            **({"kind": entry.kind} if len(kinds) > 1 else {}),
            **({"tasks": ", ".join(entry.thing.tasks)} if kind == "post-processor" else {}),
            "summary": (kind == "task" and entry.thing.summary) or summary(entry.thing),
        }
        for kind in kinds
        for entry in registry.entries(kind).values()
    ]


def _programs(config: Path | None, overrides: list[str] | None) -> Rows:
    """The programs of the settings file, which no plugin brings."""
    from ..config.resolve import FILE
    from ..programs.find import programs

    file = config or FILE
    return [
        {"name": name, "plugin": str(file), "distribution": "", "summary": what}
        for name, what in programs(file if config or FILE.is_file() else None, overrides or ())
    ]


def _models(registry: Registry) -> Rows:
    """The models of plugins, and those in the cache of the Hugging Face hub."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    rows: Rows = []
    for name, entry in registry.entries("model").items():
        source = registry.model(name)
        ready = source.is_ready()
        state = f"in {source.directory}" if ready else f"not here: flowtune models fetch {name}"
        rows.append(
            {
                "name": name,
                "from": entry.plugin,
                "summary": "; ".join(filter(None, [source.summary, state])),
                "path": source.directory,
                "ready": ready,
            }
        )
    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return rows
    for repository in sorted(repositories, key=lambda r: r.repo_id):
        if repository.repo_type == "model":
            size = f"{repository.size_on_disk / 1e9:.1f} GB in {repository.repo_path}"
            row = {"name": repository.repo_id, "from": "hub", "summary": size}
            rows.append({**row, "path": repository.repo_path, "ready": True})
    return rows
