"""MuSiQue's official figures, as evaluate_v1.0.py of github.com/StonyBrookNLP/musique has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from flowtune_cli import DataError, Example, exact_match, normalize

from .records import Gold, paragraphs_digest

PREDICTED = ("predicted_answer", "predicted_support_idxs", "predicted_answerable")


class Prediction(BaseModel):
    """One line of an official prediction file; other fields are passed over."""

    model_config = ConfigDict(frozen=True, strict=True)

    id: str
    predicted_answer: str
    predicted_support_idxs: list[int]
    predicted_answerable: bool


@dataclass(frozen=True)
class Scored:
    """What one prediction is worth.

    Args:
        answer_f1, answer_em, support_f1: also of unanswerable records, though nothing counts them.
        sufficiency: whether it was judged rightly to be answerable or not.
    """

    record_id: str
    answerable: bool
    answer_f1: float
    answer_em: float
    support_f1: float
    sufficiency: bool


def answer_f1(answer: str, golds: Iterable[str]) -> float:
    """The best F1 of the answer's bag of tokens with that of one of the golds.

    Two empty bags agree fully; an empty one and another not at all.
    """
    predicted = Counter(normalize(answer).split())
    return max(_answer_f1(predicted, Counter(normalize(gold).split())) for gold in golds)


def _answer_f1(predicted: Counter[str], gold: Counter[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    return _f1((predicted & gold).total(), predicted.total(), gold.total())


def support_f1(predicted: Iterable[int], gold: Collection[int]) -> float:
    """F1 of two sets of paragraph indices; 1 if both are empty."""
    found, right = set(predicted), set(gold)
    if not found and not right:
        return 1.0
    return _f1(len(found & right), len(found), len(right))


def _f1(shared: int, predicted: int, gold: int) -> float:
    """By way of precision and recall: what is shorter on paper may differ in its last bit."""
    if not shared:
        return 0.0
    precision, recall = shared / predicted, shared / gold
    return 2 * precision * recall / (precision + recall)


def score(examples: Sequence[Example], predictions: Sequence[Mapping[str, Any]]) -> list[Scored]:
    """What each prediction is worth.

    Args:
        predictions: official lines, one an example, in the examples' order.

    Raises:
        DataError: an example has no labels, a line lacks a field, or the lines are of other ids,
            in another order, or have the ``pardigest`` of other paragraphs.
    """
    golds = [_labels(example) for example in examples]
    lines = [_line(number, line) for number, line in enumerate(predictions, start=1)]
    ids = [str(example.record_id) for example in examples]
    if ids != [line.id for line in lines]:
        raise DataError("the predictions are not those of the records, one each, in their order")
    for number, (example, prediction) in enumerate(zip(examples, predictions, strict=True), 1):
        _check_paragraphs(number, example, prediction)
    return [
        Scored(
            record_id=line.id,
            answerable=gold.answerable,
            answer_f1=answer_f1(line.predicted_answer, gold.answers),
            answer_em=exact_match(line.predicted_answer, gold.answers),
            support_f1=support_f1(line.predicted_support_idxs, gold.support),
            sufficiency=line.predicted_answerable == gold.answerable,
        )
        for line, gold in zip(lines, golds, strict=True)
    ]


def figures(rows: Sequence[Scored]) -> dict[str, float]:
    """The official figures, rounded to 3 decimals.

    ``answer_f1``, ``answer_em`` and ``support_f1`` are means over the answerable records. If any
    record is unanswerable, ``group_answer_sufficiency_f1`` and ``group_support_sufficiency_f1``
    are means over the ids: an id's pair has the F1 of its answerable record if the answerability
    of both was predicted rightly, else 0.

    Raises:
        DataError: there are unanswerable records, and an id has no pair; names the ids.
    """
    columns = {**plain_columns(rows), **group_columns(rows)}
    return {name: round(mean(values), 3) for name, values in columns.items()}


def plain_columns(rows: Sequence[Scored]) -> dict[str, list[float]]:
    """The values whose means are the figures of answerable records."""
    rows = [row for row in rows if row.answerable]
    return {
        "answer_f1": [row.answer_f1 for row in rows],
        "answer_em": [row.answer_em for row in rows],
        "support_f1": [row.support_f1 for row in rows],
    }


def group_columns(rows: Sequence[Scored]) -> dict[str, list[float]]:
    """The values of the pairs whose means are the group figures; none in MuSiQue-Answerable."""
    if all(row.answerable for row in rows):
        return {}
    pairs = _pairs(rows)
    right = [first.sufficiency and second.sufficiency for first, second in pairs]
    return {
        f"group_{part}_sufficiency_f1": [
            float(getattr(answerable, f"{part}_f1")) if both else 0.0
            for (answerable, _), both in zip(pairs, right, strict=True)
        ]
        for part in ("answer", "support")
    }


def mean(values: Sequence[float]) -> float:
    """The mean, 0 of nothing."""
    # Not sum(): it corrects rounding errors since Python 3.12, and the official figures do not.
    total = 0.0
    for value in values:
        total += value
    return total / len(values) if values else 0.0


def listed(ids: Sequence[str], most: int = 5) -> str:
    """The first ids, for a message."""
    shown = ", ".join(f"'{name}'" for name in ids[:most])
    return f"{shown} and {len(ids) - most} more" if len(ids) > most else shown


def _labels(example: Example) -> Gold:
    if not isinstance(example.gold, Gold):
        raise DataError(
            f"the record '{example.record_id}' has no labels, as in the test files;"
            " predictions for it can only be submitted, not evaluated"
        )
    return example.gold


def _line(number: int, line: Mapping[str, Any]) -> Prediction:
    try:
        return Prediction.model_validate(dict(line))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise DataError(f"prediction {number}: field '{field}': {first['msg']}") from None


def _check_paragraphs(number: int, example: Example, line: Mapping[str, Any]) -> None:
    """The two records of a pair share their id: only the paragraphs tell them apart."""
    if "pardigest" not in line:
        return
    if line["pardigest"] != paragraphs_digest(document.text for document in example.documents):
        raise DataError(
            f"prediction {number}: its 'pardigest' is not that of the paragraphs of record"
            f" '{example.record_id}'; put the two predictions of an id in their records' order"
        )


def _pairs(rows: Sequence[Scored]) -> list[tuple[Scored, Scored]]:
    """The answerable and the unanswerable record of each id, in the order of the ids."""
    by_id: dict[str, list[Scored]] = {}
    for row in rows:
        by_id.setdefault(row.record_id, []).append(row)
    pairs, unpaired = [], []
    for name, group in by_id.items():
        group = sorted(group, key=lambda row: not row.answerable)
        if [row.answerable for row in group] == [True, False]:
            pairs.append((group[0], group[1]))
        else:
            unpaired.append(name)
    if unpaired:
        raise DataError(
            "the group figures of MuSiQue-Full need one answerable and one unanswerable record of"
            f" each id; this is not so for {len(unpaired)} of {len(by_id)} ids: {listed(unpaired)}"
        )
    return pairs
