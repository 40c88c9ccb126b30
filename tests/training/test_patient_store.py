"""Calls of a store end, whether it answers, is gone, or is frozen."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch.distributed as dist

from flowtune_cli.training.patient_store import NoAnswer, PatientStore


class Frozen(dist.HashStore):
    """Answers no question until it is let go on."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = threading.Event()

    def check(self, keys: list[str]) -> bool:
        self.goes_on.wait()
        return super().check(keys)


@pytest.fixture
def frozen() -> Iterator[Frozen]:
    store = Frozen()
    yield store
    store.goes_on.set()


def test_it_answers_as_the_store_does() -> None:
    store = dist.HashStore()
    patient = PatientStore(store, lambda: 30.0)
    under = patient.under("all")
    under.set("key", "value")
    assert patient.check(["all/key"])
    assert under.get("key") == b"value"
    assert not patient.check(["key"])
    under.delete_key("key")
    assert not under.check(["key"])
    assert not patient.is_silent
    patient.end()


def test_what_the_store_raises_is_raised() -> None:
    patient = PatientStore(object(), lambda: 30.0)
    with pytest.raises(AttributeError, match="check"):
        patient.check(["key"])
    patient.end()


def test_one_that_is_frozen_is_not_waited_for(frozen: Frozen) -> None:
    patient = PatientStore(frozen, lambda: 0.0)
    other = patient.under("all")
    with pytest.raises(NoAnswer, match="has not answered for 0 seconds"):
        patient.check(["key"])
    assert other.is_silent
    begin = time.monotonic()
    with pytest.raises(NoAnswer):
        other.get("key")
    assert time.monotonic() - begin < 0.2, "it was waited for again"
    other.end()
