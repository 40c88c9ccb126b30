"""MuSiQue's records: reads the official JSON lines, checks them, and makes examples of them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flowtune_cli import DataError, Example, read_text_lines


@dataclass(frozen=True)
class Document:
    """One paragraph of a record; ``str`` is how prompts show it."""

    idx: int
    title: str
    text: str

    def __str__(self) -> str:
        return f"Title: {self.title}\nContent: {self.text}"


@dataclass(frozen=True)
class Gold:
    """The labels of a record.

    Args:
        answers: the gold answer first, then its aliases.
        support: the ``idx`` of each supporting paragraph.
        answerable: whether the paragraphs suffice to answer.
    """

    answers: tuple[str, ...]
    support: frozenset[int]
    answerable: bool


class Paragraph(BaseModel):
    """A paragraph as the official files have it; ``is_supporting`` is missing in test records."""

    model_config = ConfigDict(frozen=True, strict=True)

    idx: int
    title: str
    paragraph_text: str
    is_supporting: bool | None = None


class Record(BaseModel):
    """A record as the official files have it; a test record has none of the labels."""

    model_config = ConfigDict(frozen=True, strict=True)

    id: str = Field(min_length=1)
    question: str = Field(min_length=1)
    paragraphs: tuple[Paragraph, ...] = Field(min_length=1)
    answer: str | None = None
    answer_aliases: tuple[str, ...] | None = None
    answerable: bool | None = None

    @property
    def digest(self) -> str:
        """Tells the two records of a Full pair apart: 8 hex digits for the paragraphs' texts."""
        return paragraphs_digest(p.paragraph_text for p in self.paragraphs)[:8]

    @property
    def labels(self) -> dict[str, object]:
        """The value of each label by its field's name; None where it is missing."""
        return {
            "answer": self.answer,
            "answer_aliases": self.answer_aliases,
            "answerable": self.answerable,
            **{
                f"paragraphs.{position}.is_supporting": paragraph.is_supporting
                for position, paragraph in enumerate(self.paragraphs)
            },
        }

    def gold(self) -> Gold | None:
        """The labels; None for a record that has none at all, as in the test files.

        Raises:
            ValueError: some labels are there and others are not, or the answer is blank.
        """
        labels = self.labels
        if all(value is None for value in labels.values()):
            return None
        missing = [field for field, value in labels.items() if value is None]
        if missing:
            raise ValueError(
                f"field '{missing[0]}' is missing, though other labels are there;"
                " a record has all labels or none"
            )
        assert self.answer is not None
        assert self.answer_aliases is not None
        if self.answerable and not self.answer.strip():
            raise ValueError("field 'answer' is blank in an answerable record")
        return Gold(
            answers=(self.answer, *self.answer_aliases),
            support=frozenset(p.idx for p in self.paragraphs if p.is_supporting),
            answerable=bool(self.answerable),
        )


def paragraphs_digest(texts: Iterable[str]) -> str:
    """SHA-256, in hex digits, of the paragraphs' texts with a blank line between them."""
    return hashlib.sha256("\n\n".join(texts).encode()).hexdigest()


def read_examples(path: Path, *, pairs: bool) -> Iterator[Example]:
    """The examples of one file, in its order. The official id is the input ``record_id``.

    Args:
        pairs: an id may stand twice (MuSiQue-Full), so that the example's id gets the digest of
            its paragraphs; without, every record must be answerable, too (MuSiQue-Answerable).

    Raises:
        DataError: the file cannot be read or has no records, or a record is malformed, lacks a
            field or stands there too often; names the file and the line.
    """
    lines: dict[str, list[int]] = {}
    names: dict[str, int] = {}
    for number, record in read_records(path):
        where = f"{path}:{number}"
        before = lines.setdefault(record.id, [])
        before.append(number)
        if len(before) > (2 if pairs else 1):
            most = "twice in MuSiQue-Full" if pairs else "once in MuSiQue-Answerable"
            others = " and ".join(str(line) for line in before[:-1])
            raise DataError(
                f"{where}: the id '{record.id}' stands in line {others} already;"
                f" an id stands at most {most}. Remove the copies."
            )
        try:
            example = _example(record, pairs)
        except ValueError as error:
            raise DataError(f"{where}: {error}") from None
        if example.id in names:
            raise DataError(
                f"{where}: this record has the id and the paragraphs of line {names[example.id]};"
                " the two records of a pair differ in their paragraphs. Remove the copy."
            )
        names[example.id] = number
        yield example
    if not lines:
        raise DataError(f"{path}: there are no records in this file")


def read_records(path: Path) -> Iterator[tuple[int, Record]]:
    """The records of a file with their line numbers, from 1; blank lines are passed over."""
    for number, line in read_text_lines(path):
        if line.strip():
            yield number, _record(line, f"{path}:{number}")


def _record(line: str, where: str) -> Record:
    try:
        return Record.model_validate_json(_without_surrogates(line))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            reason = first["msg"].removeprefix("Invalid JSON: ")
            raise DataError(f"{where}: not a line of JSON: {reason}") from None
        field = ".".join(str(part) for part in first["loc"])
        at = f"field '{field}': " if field else ""
        raise DataError(f"{where}: {at}{first['msg']}") from None


def example_of(inputs: Mapping[str, Any]) -> Example:
    """One record of a user's own: a question and its paragraphs, without id or labels.

    Raises:
        DataError: something is missing, unknown, or of another type; names the field.
    """
    paragraphs = inputs.get("paragraphs")
    if isinstance(paragraphs, Sequence) and not isinstance(paragraphs, str):
        paragraphs = [
            {"idx": number, **paragraph, "is_supporting": None}
            if isinstance(paragraph, Mapping)
            else paragraph
            for number, paragraph in enumerate(paragraphs)
        ]
    unknown = sorted(inputs.keys() - {"question", "paragraphs"})
    if unknown:
        raise DataError(f"the input has '{unknown[0]}'; it wants a question and paragraphs")
    try:
        line = json.dumps({**inputs, "id": "input", "paragraphs": paragraphs})
    except (TypeError, ValueError) as error:
        raise DataError(f"the input: {error}") from None
    try:
        return replace(_example(_record(line, "the input"), pairs=False), id="input", gold=None)
    except ValueError as error:
        raise DataError(f"the input: {error}") from None


def _without_surrogates(line: str) -> str:
    """A line of JSON in which lone surrogates, which pydantic refuses, are the texts of their
    escapes, as models read them. An id may not have any: two ids could become one."""
    if "\\ud" not in line.lower():
        return line
    try:
        value = json.loads(line)
    except ValueError:
        return line
    if not isinstance(value, dict) or _LONE.search(str(value.get("id"))):
        return line
    text = json.dumps(value, ensure_ascii=False)
    return _LONE.sub(lambda match: f"\\\\u{ord(match[0]):04x}", text)


_LONE = re.compile("[\ud800-\udfff]")


def _example(record: Record, pairs: bool) -> Example:
    idxs = [paragraph.idx for paragraph in record.paragraphs]
    if len(set(idxs)) < len(idxs):
        raise ValueError("field 'paragraphs': two paragraphs have the same idx")
    gold = record.gold()
    if gold is not None and not gold.answerable and not pairs:
        raise ValueError(
            "field 'answerable' is false, so this is a record of MuSiQue-Full;"
            " the task for it is 'musique-full'"
        )
    inputs = {
        "question": record.question,
        "documents": tuple(Document(p.idx, p.title, p.paragraph_text) for p in record.paragraphs),
        "record_id": record.id,
    }
    name = f"{record.id}@{record.digest}" if pairs else record.id
    return Example(id=name, inputs=inputs, gold=gold)
