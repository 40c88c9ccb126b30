"""The versions of the packages that results depend on, read without importing them."""

from __future__ import annotations

import platform
from importlib import metadata

_PACKAGES = ("flowtune", "torch", "transformers", "peft", "bitsandbytes", "parameterfree")


def package_versions() -> dict[str, str]:
    """By name: Python, the packages that compute, and the distributions with plugins."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    for plugin in metadata.entry_points(group="flowtune"):
        if plugin.dist is not None:
            versions[plugin.dist.name] = plugin.dist.version
    return versions
