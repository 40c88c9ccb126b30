"""The first signal asks, the second interrupts, and afterwards all is as before."""

from __future__ import annotations

import signal

import pytest

from flowtune_cli.cli.interrupts import StopRequest


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_the_first_asks_and_the_second_interrupts(first: int) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    told = []
    with StopRequest(lambda: told.append(1)) as stop:
        assert not stop.requested
        signal.raise_signal(first)
        assert stop.requested
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert told == [1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
