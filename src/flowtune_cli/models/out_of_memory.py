"""When memory runs out: work is tried again in halves, and what cannot be halved says so."""

from __future__ import annotations

import functools
import gc
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from ..flow.errors import FlowtuneError

Item = TypeVar("Item")
Result = TypeVar("Result")

_MESSAGE = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|ALLOC_FAILED",
    re.IGNORECASE,
)
"""What torch says of processors' memory, and CUDA's libraries and bitsandbytes of a GPU's."""


_RAN_OUT = "memory ran out while"


class OutOfMemory(FlowtuneError):
    """There is too little memory for even the smallest piece of work."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError, OutOfMemory)):
        return True
    return isinstance(error, RuntimeError) and _MESSAGE.search(str(error)) is not None


def in_halves(
    run: Callable[[Sequence[Item]], Result],
    items: Sequence[Item],
    what: str,
    free: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Sequence[Item], Result]]:
    """Work on items at once; where memory is short, on halves of them, and on halves of these.

    Args:
        run: must leave no trace if it raises.
        what: names the work on one item, for an error.
        free: lets go of memory that can be filled again, and says whether there was any.

    Yields:
        Items that went together, and what ``run`` made of them; in order.

    Raises:
        OutOfMemory: one item alone is too much.
    """
    pending = [(list(items), False)]
    while pending:
        part, freed = pending.pop()
        reason, result = attempt(functools.partial(run, part))
        if reason is None:
            yield part, result  # type: ignore[misc]
        elif free() and not freed:
            # Once alone, as the work itself may fill that memory again.
            pending.append((part, True))
        elif len(part) > 1:
            say_once(what)
            half = (len(part) + 1) // 2
            pending += [(part[half:], False), (part[:half], False)]
        else:
            raise out_of_memory(what, reason)


def out_of_memory(what: str, reason: str) -> OutOfMemory:
    """The error of one item that is too much; ``reason`` is what ``attempt`` found."""
    # What was tried inside says more.
    known = reason.startswith(_RAN_OUT)
    return OutOfMemory(f"{reason}." if known else f"{_RAN_OUT} {what}: {reason}.")


def attempt(run: Callable[[], Result]) -> tuple[str | None, Result | None]:
    """What ``run`` returned; or, if memory ran out, the error's first line, and memory is freed."""
    try:
        return None, run()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    # Only now is the error gone, which held on to all that the work had made.
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return reason, None


@functools.cache
def say_once(what: str) -> None:
    """Tell the user that batches are being halved; of several processes, on which one."""
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    where = f" on rank {os.environ.get('RANK', '?')}" if several else ""
    print(
        f"memory is short{where} while {what}: trying again with smaller batches", file=sys.stderr
    )


@contextmanager
def advising(advice: Callable[[], str]) -> Iterator[None]:
    """Add to an error of memory which settings to change."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"{str(error).rstrip('.')}. {advice()}") from error
