"""Settings with their values and where these come from, as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .output import detail
from .verbosity import is_verbose

if TYPE_CHECKING:
    from ..config.layers import Origin
    from ..config.resolve import Resolved


def with_origins(resolved: Resolved) -> Iterator[tuple[str, str, Origin]]:
    """Every setting: its full key, its value in TOML, and where that comes from."""
    from ..config.template import toml_value

    values = resolved.settings.model_dump(mode="json")
    for key, origin in resolved.origins.items():
        yield key, toml_value(_value(values, key)), origin


def tell_origins(resolved: Resolved) -> None:
    """Say what was set, and where, with ``--verbose``."""
    if not is_verbose():
        return
    for key, value, origin in with_origins(resolved):
        if origin.layer != "default":
            detail(f"{key} = {value} ({origin})")
    detail("all other settings have their defaults; 'flowtune config' shows them")


def _value(values: Mapping[str, Any], key: str) -> Any:
    value: Any = values
    for name in key.split("."):
        value = value[name]
    return value
