"""A prediction file comes out whole and in order, however often the writing is broken off."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtune_cli.flow.errors import FlowtuneError, UsageError
from flowtune_cli.runs.example_digests import ExampleDigest
from flowtune_cli.runs.prediction_writer import PredictionWriter, write_lines
from support.processes import python

TEXTS = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("\n\u2028\x00"), max_size=5
)


def digests(ids: Iterable[str], gold: str = "g") -> list[ExampleDigest]:
    return [ExampleDigest(name, "i", gold) for name in ids]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dev.jsonl"


@settings(max_examples=30)
@given(st.data(), st.lists(TEXTS, max_size=6))
def test_any_order_and_any_interruption_give_the_same_file(data, answers):
    ids = [f"q{i}" for i in range(len(answers))]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "dev.jsonl")
        partial = Path(directory, "dev.jsonl.partial")
        for _ in range(data.draw(st.integers(0, 3), label="interruptions")):
            with PredictionWriter(path, digests(ids)) as file:
                left = data.draw(st.permutations(range(file.done, len(ids))))
                for position in left[: data.draw(st.integers(0, len(left)))]:
                    file.write(position, {"id": ids[position], "answer": answers[position]})
                done = file.done
            assert not path.exists()
            assert partial.read_bytes().count(b"\n") == done
            size = partial.stat().st_size
            os.truncate(partial, data.draw(st.integers(0, size), label="torn at"))
        with PredictionWriter(path, digests(ids)) as file:
            for position in data.draw(st.permutations(range(file.done, len(ids)))):
                file.write(position, {"id": ids[position], "answer": answers[position]})
            file.finish()
        assert path.read_bytes().decode() == "".join(
            json.dumps({"id": i, "answer": answer}, ensure_ascii=False) + "\n"
            for i, answer in zip(ids, answers, strict=True)
        )
        assert [file.name for file in path.parent.iterdir()] == [path.name]


def start(path: Path, lines: int, ids: str = "abc", made_by: str = "") -> None:
    with PredictionWriter(path, digests(ids), made_by) as file:
        for position in range(lines):
            file.write(position, {"id": ids[position]})


def test_what_was_written_is_told_and_gone_on_with(path):
    start(path, 2)
    with PredictionWriter(path, digests("abc")) as file:
        assert file.done == 2
        with pytest.raises(FlowtuneError, match=r"dev\.jsonl\.partial has 2 of 3 lines"):
            file.finish()
        assert not path.exists()
        file.write(2, {"id": "c"})
        file.finish()
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["a", "b", "c"]


def test_each_line_is_on_its_way_as_soon_as_its_turn_comes(path):
    with PredictionWriter(path, digests("abc")) as file:
        file.write(1, {"id": "b"})
        assert file.partial.read_text() == ""
        file.write(0, {"id": "a"})
        assert file.partial.read_text() == '{"id": "a"}\n{"id": "b"}\n'


@pytest.mark.parametrize("ids", ["abd", "acb", "ab", "abcd"])
def test_lines_of_other_examples_are_refused_and_kept(path, ids):
    start(path, 2)
    with pytest.raises(UsageError, match=r"partial is of other data: .*'[bcd]'.*Delete it"):
        PredictionWriter(path, digests(ids))
    with PredictionWriter(path, digests("abc")) as file:
        assert file.done == 2


def test_lines_of_examples_that_have_changed_are_refused_and_kept(path):
    start(path, 2)
    with pytest.raises(UsageError, match=r"other data: example 'a' has other gold now\. Delete"):
        PredictionWriter(path, digests("abc", gold="h"))
    with PredictionWriter(path, digests("abc")) as file:
        assert file.done == 2


def test_lines_made_in_another_way_are_refused(path):
    start(path, 1, made_by="run a, checkpoint 100")
    with pytest.raises(UsageError, match=r"made by 'run a, checkpoint 100', not by 'run b'"):
        PredictionWriter(path, digests("abc"), "run b")


def test_a_partial_file_that_nothing_vouches_for_is_refused(path):
    start(path, 1)
    path.with_name("dev.jsonl.partial.key").unlink()
    with pytest.raises(UsageError, match=r"partial\.key is missing"):
        PredictionWriter(path, digests("abc"))


def test_a_damaged_line_and_too_many_lines_are_refused(path):
    start(path, 3)
    partial = path.with_name("dev.jsonl.partial")
    partial.write_bytes(b'{"id": "a"}\n{"id": \n{"id": "c"}\n')
    with pytest.raises(UsageError, match=r"partial, line 2, is not JSON"):
        PredictionWriter(path, digests("abc"))
    partial.write_bytes(b'{"id": "a"}\n' * 4)
    with pytest.raises(UsageError, match="has 4 lines for 3 examples"):
        PredictionWriter(path, digests("abc"))


def test_a_prediction_is_given_once_and_in_range(path):
    with PredictionWriter(path, digests("abc")) as file:
        file.write(0, {})
        file.write(2, {})
        for position in (0, 2, 3, -1):
            with pytest.raises(ValueError, match="out of range or already written"):
                file.write(position, {})
        with pytest.raises(UsageError, match="position 1 is not made of JSON values"):
            file.write(1, {"answer": object()})


def test_lone_surrogates_survive(path):
    with PredictionWriter(path, digests("a")) as file:
        file.write(0, {"answer": "a\ud800 \\ß"})
        file.finish()
    assert "ß" in path.read_text(encoding="utf-8")
    assert json.loads(path.read_bytes()) == {"answer": "a\ud800 \\ß"}


def test_an_older_file_stays_until_the_new_one_is_whole(path):
    path.write_text("old\n")
    start(path, 2)
    assert path.read_text() == "old\n"
    with PredictionWriter(path, digests("abc")) as file:
        file.write(2, {})
        file.finish()
    assert path.read_text().endswith("{}\n")


def test_two_writers_at_once_are_refused(path):
    with (
        PredictionWriter(path, digests("abc")),
        pytest.raises(UsageError, match=r"another process is writing .*partial"),
    ):
        PredictionWriter(path, digests("abc"))
    with PredictionWriter(path, digests("abc")) as file:
        assert file.done == 0


def test_a_directory_that_is_not_there_is_told(tmp_path):
    with pytest.raises(FlowtuneError, match=r"cannot write .*nowhere/x\.jsonl: No such file"):
        PredictionWriter(tmp_path / "nowhere" / "x.jsonl", digests("abc"))


FULL = """
import resource, sys
from pathlib import Path
from flowtune_cli.flow.errors import FlowtuneError
from flowtune_cli.runs.example_digests import ExampleDigest
from flowtune_cli.runs.prediction_writer import PredictionWriter

with PredictionWriter(Path(sys.argv[1]), [ExampleDigest(i, "i", "g") for i in "abc"]) as file:
    resource.setrlimit(resource.RLIMIT_FSIZE, (250, 250))
    try:
        for position in range(3):
            file.write(position, {"answer": "x" * 100})
    except FlowtuneError as error:
        print(position, file.done, error)
"""


def test_a_file_that_cannot_grow_keeps_its_whole_lines(path):
    out, _ = python(FULL, path).communicate(timeout=600)
    assert out.startswith("2 2 cannot write")
    assert "same command again" in out
    with PredictionWriter(path, digests("abc")) as file:
        assert file.done == 2
        assert file.partial.stat().st_size == 230


def test_the_lines_are_made_in_the_end_and_what_was_given_is_kept_when_that_fails(path):
    start(path, 3)

    def failing(given):
        assert [line["id"] for line in given] == ["a", "b", "c"]
        yield {"id": "first"}
        raise UsageError("no")

    for _ in range(2):
        with PredictionWriter(path, digests("abc")) as file, pytest.raises(UsageError, match="no"):
            file.finish(failing)
        assert [each.name for each in sorted(path.parent.iterdir())] == [
            "dev.jsonl.partial",
            "dev.jsonl.partial.key",
        ]
    with PredictionWriter(path, digests("abc")) as file:
        assert file.done == 3
        file.finish(lambda given: [{"all": len(given)}])
    assert path.read_text() == '{"all": 3}\n'
    assert [each.name for each in path.parent.iterdir()] == ["dev.jsonl"]


@pytest.mark.parametrize("value", [object(), float("nan"), float("inf")])
def test_lines_that_are_no_json_leave_what_was_there(path, value):
    path.write_text("old\n")
    with pytest.raises(UsageError, match="position 1 is not made of JSON values"):
        write_lines(path, [{}, {"a": value}])
    with pytest.raises(FlowtuneError, match=r"cannot write .*nowhere"):
        write_lines(path.parent / "nowhere" / "x", [])
    assert path.read_text() == "old\n"
    assert [each.name for each in path.parent.iterdir()] == ["dev.jsonl"]
