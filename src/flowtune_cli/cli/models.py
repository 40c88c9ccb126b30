"""``flowtune models``: get base models onto this machine before anything needs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..flow.errors import UsageError
from . import stdout
from .command import OwnCommand
from .completion import complete_model
from .options import JsonOption
from .output import note, print_json
from .phase import phase

if TYPE_CHECKING:
    from pathlib import Path

    from ..config.settings import ModelSettings
    from ..registry import Registry

models = typer.Typer(
    name="models", help="Fetch base models; 'flowtune ls models' lists them.", rich_markup_mode=None
)


@models.callback()
def _group() -> None:
    """Make ``fetch`` a command of its own, though it is the only one."""


@models.command(cls=OwnCommand)
def fetch(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A model of a plugin, or a Hugging Face id such as 'org/name'.",
            autocompletion=complete_model,
        ),
    ],
    revision: Annotated[
        str | None,
        typer.Option(metavar="REVISION", help="Branch, tag or commit of a Hugging Face id."),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read all files of a plugin's model; repair damaged ones."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Fetch a base model into the cache, and print its directory."""
    from ..registry import load_registry

    registry = load_registry()
    if name in registry.entries("model"):
        if revision is not None:
            raise UsageError(f"'{name}' comes from a plugin: --revision is for Hugging Face ids")
        with phase(f"fetching {name}", silent=True):
            directory = registry.model(name).fetch(verify=verify)
    elif verify:
        raise UsageError(
            "--verify is for models of plugins. For a Hugging Face id there is: hf cache verify"
        )
    else:
        with phase(f"fetching {name}", silent=True):
            directory = _fetch_from_hub(name, revision, registry)
    if json:
        print_json({"name": name, "directory": directory})
    else:
        stdout.write(directory)


def _fetch_from_hub(name: str, revision: str | None, registry: Registry) -> Path:
    from ..config.settings import ModelSettings
    from ..models.files import find_local, find_model

    if find_local(name, registry) is not None:
        raise UsageError(f"{name} is on this machine already: nothing to fetch")
    settings = ModelSettings(name=name, revision=revision)
    return find_model(settings, _Suitable(settings), registry).directory


@dataclass(frozen=True)
class _Suitable:
    """Refuses what cannot be used on any machine; memory and context are checked when it loads."""

    model: ModelSettings

    def config(self, directory: Path) -> None:
        from ..config.settings import Settings
        from ..models.skeleton import UntrustedCode
        from ..training.session import check_directory

        try:
            check_directory(directory, Settings(model=self.model))
        except UntrustedCode as error:
            note(f"{error} Whether it can be used shows when it is loaded.")

    def weights(self, weights: Any) -> None:
        pass
