"""What asks Python for the time gets another day, and all else stays as it is."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Callable
from datetime import date
from datetime import datetime as moment
from time import time as now
from typing import Any

import pytest

from flowtune_cli.runtime.shifted_clock import SHIFT, shifted_clock

CLOCKS: list[Callable[[], Any]] = [
    lambda: time.strftime("%Y-%m-%d"),
    lambda: time.localtime()[:3],
    lambda: time.gmtime()[:3],
    lambda: time.ctime()[:10],
    lambda: time.asctime()[:10],
    lambda: int(time.time_ns() / 1e13),
    lambda: int(time.time() / 1e4),
    lambda: datetime.date.today(),
    lambda: datetime.datetime.now().date(),
    lambda: datetime.datetime.now(datetime.timezone.utc).date(),
    lambda: datetime.datetime.today().date(),
]


@pytest.mark.parametrize("clock", CLOCKS)
def test_it_is_another_day(clock: Callable[[], Any]) -> None:
    before = clock()
    with shifted_clock("no_such_package"):
        assert clock() != before
    assert abs(time.time() - now()) < 5


def test_names_that_the_package_has_imported_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("a_flow.clock")
    vars(module).update(date=date, moment=moment, now=now, other=len)
    monkeypatch.setitem(sys.modules, "a_flow.clock", module)
    there: Any = module
    with shifted_clock("a_flow"):
        assert there.now() - time.monotonic() > SHIFT.total_seconds()
        assert there.date.today() == (moment.now() + SHIFT).date()
        assert there.moment.now() - moment.now() > SHIFT / 2
        assert there.other is len
    assert (there.date, there.moment, there.now) == (date, moment, now)


def test_dates_are_still_dates() -> None:
    real = datetime.datetime(2020, 2, 3, 4, 5)
    with shifted_clock("no_such_package"):
        made = datetime.datetime(2020, 2, 3, 4, 5)
        assert (made, repr(made), type(made)) == (real, repr(real), type(real))
        assert isinstance(real, datetime.datetime)
        assert isinstance(real, datetime.date)
        assert datetime.datetime.fromisoformat("2020-02-03T04:05") == real
        assert datetime.date(2020, 2, 3) == real.date()
        assert time.strftime("%Y", real.timetuple()) == "2020"
        assert time.gmtime(0).tm_year == 1970
        assert type(datetime.datetime.now()) is type(real)
