"""Errors of memory are told from others, and work is halved until it fits."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence

import pytest
import torch

from flowtune_cli.models.out_of_memory import (
    OutOfMemory,
    advising,
    attempt,
    in_halves,
    is_out_of_memory,
)


def test_a_processor_out_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**55, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (MemoryError(), True),
        (OutOfMemory("memory ran out"), True),
        (RuntimeError("The size of tensor a (3) must match"), False),
        (ValueError("out of memory"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_what_is_an_error_of_memory(error: BaseException, is_it: bool) -> None:
    assert is_out_of_memory(error) == is_it


class Machine:
    """Works on so many items at once; ``held`` is memory that can be filled again."""

    def __init__(self, most: int, held: int = 0) -> None:
        self.most, self.held = most, held
        self.tried: list[list[int]] = []

    def run(self, items: Sequence[int]) -> int:
        self.tried.append(list(items))
        if len(items) + self.held > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.held += self.refill
        return sum(items)

    refill = 0

    def free(self) -> bool:
        held, self.held = self.held, 0
        return held > 0


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8])
@pytest.mark.parametrize("most", [1, 2, 3, 8])
def test_every_item_is_worked_on_once_and_in_order(count: int, most: int) -> None:
    machine = Machine(most)
    found = list(in_halves(machine.run, range(count), "counting", machine.free))
    assert [item for part, _ in found for item in part] == list(range(count))
    assert all(len(part) <= most and total == sum(part) for part, total in found)


def test_what_can_be_filled_again_goes_first() -> None:
    machine = Machine(4, held=1)
    found = list(in_halves(machine.run, range(4), "counting", machine.free))
    assert found == [([0, 1, 2, 3], 6)]
    assert machine.tried == [[0, 1, 2, 3]] * 2


def test_it_ends_though_the_work_fills_memory_again() -> None:
    machine = Machine(0)

    def fill(items: Sequence[int]) -> int:
        machine.held = 1
        return machine.run(items)

    with pytest.raises(OutOfMemory, match=r"^memory ran out while counting: CUDA out of memory\.$"):
        list(in_halves(fill, range(4), "counting", machine.free))
    assert len(machine.tried) == 6


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_halves(lambda items: 1 // 0, [1, 2], "dividing"))


def test_what_failed_is_gone_before_the_next_try() -> None:
    made: list[weakref.ref[torch.Tensor]] = []

    def work() -> None:
        tensor = torch.zeros(3)
        made.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError("CUDA out of memory")

    gc.disable()
    try:
        assert attempt(work) == ("CUDA out of memory", None)
    finally:
        gc.enable()
    assert made[0]() is None


def test_advice_is_for_errors_of_memory_alone() -> None:
    with (
        pytest.raises(OutOfMemory, match=r"^CUDA out of memory\. Buy more\.$"),
        advising(lambda: "Buy more."),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(ZeroDivisionError), advising(lambda: pytest.fail("asked")):
        1 // 0  # noqa: B018
