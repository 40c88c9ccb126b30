"""One reader for all data: every record, in order, with errors that name the line."""

from __future__ import annotations

import datetime
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.flow.errors import DataError, UsageError
from flowtune_cli.programs.data import read_data


def read(path: Path | str, split: str = "train", gold: tuple[str, ...] = ()) -> list[Any]:
    return [(e.id, dict(e.inputs), e.gold) for e in read_data(str(path), split, gold)]


def jsonl(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_lines_of_json(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('\ufeff{"id": "a", "q": 1}\n\n{"q": "ü"}\r\n{"id": 7}', encoding="utf-8")
    assert read(path) == [
        ("a", {"id": "a", "q": 1}, {}),
        ("3", {"q": "ü"}, {}),
        ("7", {"id": 7}, {}),
    ]


def test_gold_is_taken_out(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "d.jsonl", {"q": 1, "a": 2, "b": 3}, {"q": 1, "a": 2}, {"a": 2, "b": None}
    )
    assert read(path, gold=("a", "b")) == [
        ("1", {"q": 1}, {"a": 2, "b": 3}),
        ("2", {"q": 1}, None),
        ("3", {}, None),
    ]


def test_csv_and_tsv_plain_and_compressed(tmp_path: Path) -> None:
    text = 'q,a\r\n"two\nlines, one field",1\r\n\r\nü,\r\n'
    (tmp_path / "d.csv").write_bytes(text.encode())
    (tmp_path / "z.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "d.tsv").write_text("q\ta\nx, y\t1\n")
    both = [("1", {"q": "two\nlines, one field", "a": "1"}, {}), ("2", {"q": "ü", "a": ""}, {})]
    assert [
        (i, {k: v.replace("\r", "") for k, v in d.items()}, g)
        for i, d, g in read(tmp_path / "d.csv")
    ] == both
    assert len(read(tmp_path / "z.csv.gz")) == 2
    assert read(tmp_path / "d.tsv") == [("1", {"q": "x, y", "a": "1"}, {})]


def test_an_empty_cell_is_no_gold(tmp_path: Path) -> None:
    """Else a reward that looks for it in an answer would always find it."""
    (tmp_path / "d.csv").write_text("q,a\nx,1\ny,\n,\n")
    assert [gold for _, _, gold in read(tmp_path / "d.csv", gold=("a",))] == [
        {"a": "1"},
        None,
        None,
    ]
    # In JSON, who means nothing can say so.
    path = jsonl(tmp_path / "d.jsonl", {"q": "x", "a": ""}, {"q": "x", "a": None})
    assert [gold for _, _, gold in read(path, gold=("a",))] == [{"a": ""}, None]


def test_a_long_field_of_csv(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("q\n" + "x" * 300_000 + "\n")
    [(_, record, _)] = read(tmp_path / "d.csv")
    assert len(record["q"]) == 300_000


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "id": ["a", "b"],
            "when": [datetime.date(2024, 1, 2), None],
            "n": [1.5, float("nan")],
            "list": [[1, 2], []],
        }
    )
    pq.write_table(table, tmp_path / "d.parquet")
    assert read(tmp_path / "d.parquet") == [
        ("a", {"id": "a", "when": "2024-01-02", "n": 1.5, "list": [1, 2]}, {}),
        ("b", {"id": "b", "when": None, "n": None, "list": []}, {}),
    ]
    pq.write_table(pa.table({"image": [b"\x00"]}), tmp_path / "i.parquet")
    with pytest.raises(DataError, match=r"i\.parquet, row 1: 'image' is a bytes"):
        read(tmp_path / "i.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match=r"bad\.parquet: cannot be read as Parquet"):
        read(tmp_path / "bad.parquet")


def test_a_data_set_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[Any] = []

    def load(*names: str, split: str) -> Any:
        asked.append((*names, split))
        return datasets.Dataset.from_list([{"q": "x", "label": 1}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read("hf://owner/name", "validation", ("label",)) == [("1", {"q": "x"}, {"label": 1})]
    # As a path, it has lost a slash.
    read(str(Path("hf://owner/name/config")), "test")
    assert asked == [("owner/name", "validation"), ("owner/name", "config", "test")]
    with pytest.raises(DataError, match="write hf://OWNER/NAME"):
        read("hf://name")


def test_a_data_set_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def load(*names: str, split: str) -> Any:
        raise ValueError("no split")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match="hf://o/n, split 'train': cannot be loaded: ValueError"):
        read("hf://o/n")


@pytest.mark.parametrize(("module", "source"), [("datasets", "hf://o/n"), ("pyarrow", "d.parquet")])
def test_a_package_that_is_not_there(
    module: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(tmp_path)
    Path("d.parquet").touch()
    with pytest.raises(UsageError, match=rf"{source}.* needs the package {module}"):
        read(source)


def test_a_folder_has_a_file_for_each_split(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", {"q": 1})
    (tmp_path / "dev.csv").write_text("q\n2\n")
    assert read(tmp_path)[0][1] == {"q": 1}
    assert read(tmp_path, "dev")[0][1] == {"q": "2"}
    with pytest.raises(DataError, match="has no file of split 'test'"):
        read(tmp_path, "test")
    jsonl(tmp_path / "train.json", {"q": 1})
    with pytest.raises(DataError, match=r"more than one file of split 'train': train.json, "):
        read(tmp_path)


WRONG = {
    "not JSON": ("d.jsonl", '{"q": 1}\n{"q": \n', r"d\.jsonl:2: not JSON"),
    "no object": ("d.jsonl", "[1, 2]\n", r"d\.jsonl:1: \[1, 2\] is no JSON object"),
    "NaN": ("d.jsonl", '{"q": NaN}\n', r"d\.jsonl:1: not JSON: NaN is no JSON number"),
    "an odd id": ("d.jsonl", '{"id": [1]}\n', r"d\.jsonl:1: the id \[1\] is neither"),
    "a truth value": ("d.jsonl", '{"id": true}\n', r"d\.jsonl:1: the id true is neither"),
    "no id": ("d.jsonl", '{"id": ""}\n', r'd\.jsonl:1: the id "" is neither'),
    "too few fields": ("d.csv", 'a,b\n"1\n2",3\n4\n', r"d\.csv:4: 1 fields, where the head has 2"),
    "a quote": ("d.csv", 'a,b\n1,2\n"x,3\n', r"d\.csv:3: not CSV"),
    "two heads": ("d.csv", "a,a\n", r"d\.csv:1: the head has two columns named 'a'"),
    "no head": ("d.csv", "a,\n", r"d\.csv:1: a column of the head has no name"),
    "no kind": ("d.txt", "x", r"d\.txt: the name does not say what it is"),
}


@pytest.mark.parametrize("what", WRONG)
def test_errors_name_the_line(what: str, tmp_path: Path) -> None:
    name, text, said = WRONG[what]
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said):
        read(tmp_path / name)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*/d\.jsonl\.$"):
        read(tmp_path / "d.jsonl")
    with pytest.raises(
        DataError, match="If it is a data set of Hugging Face, write hf://owner/set"
    ):
        read(tmp_path / "owner" / "set")
    with pytest.raises(DataError, match="is a single file, which has no split 'dev'"):
        read(jsonl(tmp_path / "d.jsonl", {}), "dev")
