"""Predictions of one process and of several: the same file, chunk after chunk."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowtune_cli.config.settings import ModelSettings
from flowtune_cli.learning.peers import ALONE
from support.rank_cases import predict
from support.rank_workers import Workers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="os.fork"),
]


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(3) as started:
        yield started


def test_chunks_are_shared_out_in_turn_and_the_file_is_the_same(
    workers: Workers, tiny_settings: ModelSettings, tmp_path: Path
) -> None:
    """Of 8 examples, three processes play 6 and then 2: the last one none."""
    alone = predict(ALONE, tiny_settings, tmp_path, "alone", chunk=2)
    several = workers.run(3, "predict", tiny_settings, tmp_path, "three", chunk=2)
    ids = alone["played"]
    assert [each["played"] for each in several] == [
        [ids[place] for place in places] for places in ([0, 3, 6], [1, 4, 7], [2, 5])
    ]
    whole = (tmp_path / "alone.jsonl").read_bytes()
    assert len(whole.splitlines()) == 8
    assert (tmp_path / "three.jsonl").read_bytes() == whole


@pytest.mark.parametrize(("first", "then"), [(3, 1), (1, 2), (2, 3)])
def test_stopped_on_the_last_rank_it_goes_on_with_another_number_of_processes(
    workers: Workers, tiny_settings: ModelSettings, tmp_path: Path, first: int, then: int
) -> None:
    """What the chunk in which it was stopped has so far is kept."""

    def on(size: int, name: str, **more: object) -> list[dict[str, object]]:
        if size == 1:
            return [predict(ALONE, tiny_settings, tmp_path, name, chunk=4, **more)]  # type: ignore
        return workers.run(size, "predict", tiny_settings, tmp_path, name, chunk=4, **more)

    on(1, "whole")
    stopped = on(first, "out", stop_on=(first - 1, 2))
    assert [each["stopped"] for each in stopped] == [True] * first
    partial = tmp_path / "out.jsonl.partial"
    kept = len(partial.read_text().splitlines())
    assert kept >= (2 if first == 2 else 1)  # then the second one is of the rank that was stopped
    assert not (tmp_path / "out.jsonl").exists()
    resumed = on(then, "out")
    assert sum(len(each["played"]) for each in resumed) == 8 - kept  # type: ignore[arg-type]
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not partial.exists()
