"""What plugins bring: hooks, the registry of registered things, and flowtune's own built-ins."""

from .checks import Kind
from .hookspecs import hookimpl
from .manager import Entry, Plugin, Problem, Registry, load_registry

__all__ = ["Entry", "Kind", "Plugin", "Problem", "Registry", "hookimpl", "load_registry"]
