"""What a run has taken, added up over its processes."""

from __future__ import annotations

import json

import pytest

from flowtune_cli.flow.endpoint import Spent
from flowtune_cli.runs.usage import Usage, short_number, together, used_text


def test_processes_add_up_and_peaks_do_not() -> None:
    first, second = Usage(10.0, 15.0, 3, 1), Usage(5.0, 6.0, 2, 4)
    assert first.then(second) == Usage(15.0, 21.0, 3, 4)
    assert Usage().then(first) == first


def test_json_there_and_back() -> None:
    usage = Usage(10.0, 15.0, 3, 1)
    assert Usage.from_json(usage.to_json()) == usage
    assert Usage.from_json({"seconds": 2.0, "of a later version": 1}) == Usage(2.0)


def test_what_other_servers_were_asked_adds_up() -> None:
    first = Usage(endpoints=Spent(2, 10, 4, 0.5))
    second = Usage(endpoints=Spent(1, 5, 2))  # without a price
    for whole in (first.then(second), together([first, second])):
        assert whole.endpoints == Spent(3, 15, 6, 0.5)
        assert Usage.from_json(json.loads(json.dumps(whole.to_json()))) == whole
    assert second.then(second).endpoints.cost is None
    expected = "of other servers 2 requests, 10 input and 4 output tokens, cost 0.5"
    assert used_text(first, []) == expected
    assert used_text(Usage(), []) == ""


def test_texts() -> None:
    assert Usage().text == ""
    assert Usage(60, 100, 1_200_000_000).text == (
        "60 s (2 min of processor time), 1.2 GB of memory"
    )
    assert Usage(7200, 9000, 10**9, 4 * 10**9).text == (
        "2 h 00 min (2 h 30 min of processor time), 1.0 GB of memory, 4.0 GB of GPU memory"
    )


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (1000, "1.0k"), (34_000, "34k"), (2.5e6, "2.5M")]
)
def test_numbers_in_short(number: float, text: str) -> None:
    assert short_number(number) == text


def test_processes_side_by_side() -> None:
    assert together([Usage(10.0, 15.0, 3, 1), Usage(12.0, 1.0, 2, 4)]) == Usage(12.0, 16.0, 5, 5)
