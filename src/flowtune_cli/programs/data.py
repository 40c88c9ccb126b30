"""Reads the data of a program: JSONL, CSV, Parquet, or a data set of Hugging Face."""

from __future__ import annotations

import csv
import datetime
import decimal
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..flow.errors import DataError, missing_package
from ..flow.example import Example
from ..flow.paths import REMOTE, is_remote, place_text
from ..flow.text_files import read_text_lines

SPLITS = ("train", "dev", "validation", "test")
_KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
_DATA_SET = re.compile(r"[\w.-]+/[\w.-]+(/[\w.-]+)?")
# A single field of a table may be a whole document.
_LONGEST_FIELD = min(sys.maxsize, 2**31 - 1)

Record = tuple[str, int, Mapping[str, Any]]
"""Where a record stands, as messages say it; its number, from 1; and its fields."""


def read_data(source: str, split: str, gold: tuple[str, ...]) -> Iterator[Example]:
    """The examples of some data, all of them and in their order.

    An example's id is its field ``id``, or else the number of its line or row. It has no gold where
    a field of ``gold`` is missing, null, or an empty cell of a text file's table.

    Args:
        source: a file; a folder with a file for each split, ``train.jsonl`` and so on; or
            ``hf://owner/name``, or ``hf://owner/name/config``.
        gold: the fields that programs are not shown.

    Raises:
        DataError: names the file and the line.
    """
    missing = ("", None) if _is_text_table(source, split) else (None,)
    for place, number, record in read_records(source, split):
        inputs = {name: value for name, value in record.items() if name not in gold}
        found = {name: record[name] for name in gold if record.get(name) not in missing}
        complete = len(found) == len(gold)
        yield Example(_id(record, place, number), inputs, found if complete else None)


def read_records(source: str, split: str) -> Iterator[Record]:
    """The records of some data; see ``read_data``."""
    if is_remote(source):
        yield from _data_set(place_text(source), split)
        return
    path = _file(Path(source), split)
    kind = _kind(path)
    if kind == ".parquet":
        yield from _parquet(path)
    elif kind in (".csv", ".tsv"):
        yield from _table(path, "," if kind == ".csv" else "\t")
    else:
        yield from _lines(path)


def _is_text_table(source: str, split: str) -> bool:
    return not is_remote(source) and _kind(_file(Path(source), split)) in (".csv", ".tsv")


def _kind(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return next((kind for kind in _KINDS if name.endswith(kind)), "")


def _file(path: Path, split: str) -> Path:
    """The file of a split."""
    if path.is_dir():
        found = [each for each in sorted(path.glob(f"{split}.*")) if _kind(each)]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(each.name for each in found)
            raise DataError(f"{path} has more than one file of split '{split}': {names}")
        raise DataError(
            f"{path} has no file of split '{split}': it would be {split}.jsonl, {split}.csv or"
            f" {split}.parquet. Say which split you mean (--split)."
        )
    if not path.exists():
        raise DataError(f"there is no file {path}.{_perhaps_remote(path)}")
    if split != SPLITS[0]:
        raise DataError(
            f"{path} is a single file, which has no split '{split}': leave --split out, or give a"
            f" folder with {split}.jsonl and the like"
        )
    if not _kind(path):
        raise DataError(
            f"{path}: the name does not say what it is. It must end in one of {', '.join(_KINDS)};"
            " text files also with .gz"
        )
    return path


def _perhaps_remote(path: Path) -> str:
    last = "/".join(path.parts[-2:])
    if path.suffix or not _DATA_SET.fullmatch(last):
        return ""
    return f" If it is a data set of Hugging Face, write {REMOTE}{last}."


def _lines(path: Path) -> Iterator[Record]:
    for number, line in read_text_lines(path):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            record = json.loads(line, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: not JSON: {error}") from None
        if not isinstance(record, dict):
            raise DataError(
                f"{place}: {_shown(record)} is no JSON object. Each line holds one example, such as"
                ' {"question": "Who?"}'
            )
        yield place, number, record


def _table(path: Path, delimiter: str) -> Iterator[Record]:
    csv.field_size_limit(_LONGEST_FIELD)
    lines = (line for _, line in read_text_lines(path))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    names: list[str] | None = None
    number = 0
    begin = 1
    try:
        for row in reader:
            place, begin = f"{path}:{begin}", reader.line_num + 1
            if not row:
                continue
            if names is None:
                names = row
                _check_names(names, place)
                continue
            number += 1
            if len(row) != len(names):
                raise DataError(
                    f"{place}: {len(row)} fields, where the head has {len(names)}:"
                    f" {', '.join(names)}"
                )
            yield place, number, dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV: {error}") from None


def _check_names(names: list[str], place: str) -> None:
    for name in names:
        if not name.strip():
            raise DataError(f"{place}: a column of the head has no name")
        if names.count(name) > 1:
            raise DataError(f"{place}: the head has two columns named '{name}'")


def _parquet(path: Path) -> Iterator[Record]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing_package(str(path), str(error.name), "datasets") from error
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    place = f"{path}, row {number}"
                    yield place, number, _json_record(row, place)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from error


def _data_set(source: str, split: str) -> Iterator[Record]:
    name = source.removeprefix(REMOTE)
    if not _DATA_SET.fullmatch(name):
        raise DataError(f"{source}: write {REMOTE}OWNER/NAME or {REMOTE}OWNER/NAME/CONFIG")
    try:
        import datasets
    except ImportError as error:
        raise missing_package(source, str(error.name), "datasets") from error
    owner, short, *config = name.split("/")
    try:
        rows = datasets.load_dataset(f"{owner}/{short}", *config, split=split)
    except Exception as error:  # the library raises whatever the hub and its files give
        raise DataError(
            f"{source}, split '{split}': cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    for number, row in enumerate(rows, start=1):
        place = f"{source}, split '{split}', row {number}"
        yield place, number, _json_record(row, place)


def _json_record(row: Mapping[str, Any], place: str) -> dict[str, Any]:
    return {name: _json_value(value, f"{place}: '{name}'") for name, value in row.items()}


def _json_value(value: Any, place: str) -> Any:
    """A value of a table as JSON has it: dates are ISO texts."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): _json_value(each, place) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(each, place) for each in value]
    raise DataError(
        f"{place} is a {type(value).__name__}, and a program is given JSON values: texts, numbers,"
        " truth values, lists and objects. Leave the column out"
    )


def _id(record: Mapping[str, Any], place: str, number: int) -> str:
    if "id" not in record:
        return str(number)
    value = record["id"]
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise DataError(f"{place}: the id {_shown(value)} is neither a text nor a number")
    return str(value)


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
