"""The journals of a run that several processes train: each writes its own, all are read."""

from __future__ import annotations

from pathlib import Path

from ..flow.errors import FlowtuneError
from .atomic import write_bytes


def rank_journal(journal: Path, rank: int) -> Path:
    """The file that a process writes: the run's own for rank 0, ``journal.rank-1.jsonl`` ..."""
    return journal if rank == 0 else journal.with_name(f"{journal.stem}.rank-{rank}.jsonl")


def merge_journals(journal: Path) -> None:
    """Move what processes have written into the run's own journal, however many there were.

    A process that is killed meanwhile leaves it so that the next call goes on.

    Raises:
        FlowtuneError: a file cannot be read or written.
    """
    merged = journal.with_name(f"{journal.stem}.merged.jsonl")
    others = sorted(journal.parent.glob(f"{journal.stem}.rank-*.jsonl"))
    try:
        if not merged.exists():  # else it holds all of the others, and was not yet put in place
            if not others:
                return
            # The run's own comes first: what it has of an episode was written before.
            files = [journal, *others] if journal.exists() else others
            write_bytes(merged, [_whole_lines(file) for file in files])
        for file in others:
            file.unlink()
        merged.replace(journal)
    except OSError as error:
        raise FlowtuneError(
            f"the journals of {journal.parent} cannot be put together: {error}"
        ) from None


def _whole_lines(file: Path) -> bytes:
    """A file without what a killed process had begun to write."""
    data = file.read_bytes()
    return data[: data.rfind(b"\n") + 1]
