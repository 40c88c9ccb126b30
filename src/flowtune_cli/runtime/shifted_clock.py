"""Another day: what asks Python for the time gets a later one, so that a date in a prompt shows.

Only what is Python's is shifted: ``time``, and ``datetime`` in the module itself and where the
flow's own package has imported its classes by name. A library in C that reads the clock itself is
not.
"""

from __future__ import annotations

import contextlib
import datetime
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

SHIFT = datetime.timedelta(days=400, hours=5, minutes=7, seconds=11)
"""Another year, month, day, weekday, hour and minute."""

_SECONDS = SHIFT.total_seconds()
_now = time.time


class _StandsIn(type):
    """Makes objects of the real class, the first base, and takes them for its own."""

    def __call__(cls, *args: Any, **options: Any) -> Any:
        return cls.__mro__[1](*args, **options)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.__mro__[1])


class _Date(datetime.date, metaclass=_StandsIn):
    @classmethod
    def today(cls) -> Any:
        return cls.fromtimestamp(_now() + _SECONDS)


class _DateTime(datetime.datetime, metaclass=_StandsIn):
    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return cls.fromtimestamp(_now() + _SECONDS, tz)

    @classmethod
    def today(cls) -> Any:
        return cls.now()

    @classmethod
    def utcnow(cls) -> Any:
        return cls.now(datetime.timezone.utc).replace(tzinfo=None)


@contextlib.contextmanager
def shifted_clock(package: str) -> Iterator[None]:
    """The time is ``SHIFT`` later within.

    Args:
        package: the flow's; in its modules, names that were imported are replaced, too.
    """
    replaced: list[tuple[Any, Any]] = [
        (datetime.date, _Date),
        (datetime.datetime, _DateTime),
        (time.time, lambda: _now() + _SECONDS),
        (time.time_ns, lambda: int((_now() + _SECONDS) * 1e9)),
        *[(each, _from_now(each)) for each in (time.localtime, time.gmtime, time.ctime)],
        (time.strftime, _strftime),
        (time.asctime, lambda when=None: _asctime(when or time.localtime())),
    ]
    modules = [datetime, time, *_modules(package)]
    with contextlib.ExitStack() as stack:
        for module in modules:
            for name, value in list(vars(module).items()):
                for real, other in replaced:
                    if value is real:
                        setattr(module, name, other)
                        stack.callback(setattr, module, name, value)
        yield


def _modules(package: str) -> list[Any]:
    return [
        module
        for name, module in list(sys.modules.items())
        if (name == package or name.startswith(f"{package}.")) and module is not None
    ]


def _from_now(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda seconds=None: function(_now() + _SECONDS if seconds is None else seconds)


_real_strftime, _asctime = time.strftime, time.asctime


def _strftime(format: str, when: Any = None) -> str:
    return _real_strftime(format, time.localtime() if when is None else when)
