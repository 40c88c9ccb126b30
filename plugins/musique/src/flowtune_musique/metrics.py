"""MuSiQue's official figures, as evaluate_v1.0.py of github.com/StonyBrookNLP/musique has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from flowtune_cli import DataError, Example, exact_match, token_f1

from .records import Gold

PREDICTED = ("predicted_answer", "predicted_support_idxs", "predicted_answerable")


class Prediction(BaseModel):
    """One line of an official prediction file; other fields are passed over."""

    model_config = ConfigDict(frozen=True, strict=True)

    id: str
    predicted_answer: str
    predicted_support_idxs: list[int]
    predicted_answerable: bool


def support_f1(predicted: Iterable[int], gold: Collection[int]) -> float:
    """F1 of two sets of paragraph indices; 1 if both are empty."""
    found, right = set(predicted), set(gold)
    if not found and not right:
        return 1.0
    return 2 * len(found & right) / (len(found) + len(right))


def evaluate(
    examples: Sequence[Example], predictions: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """The official figures of predictions, rounded to 3 decimals.

    ``answer_f1``, ``answer_em`` and ``support_f1`` are means over the answerable examples. If any
    example is unanswerable, ``group_answer_sufficiency_f1`` and ``group_support_sufficiency_f1``
    are means over the ids: an id's pair has the F1 of its answerable example if the answerability
    of both was predicted rightly, else 0.

    Args:
        predictions: official lines, one an example, in the examples' order.

    Raises:
        DataError: examples without labels, predictions with other ids or another order, lines
            that lack a field, ids without a pair. The message names the ids.
    """
    golds = [_labels(example) for example in examples]
    lines = [_line(number, line) for number, line in enumerate(predictions, start=1)]
    ids = [str(example.record_id) for example in examples]
    _check_ids(ids, [line.id for line in lines])

    rows = list(zip(lines, golds, strict=True))
    scores = {
        "answer_f1": [token_f1(line.predicted_answer, gold.answers) for line, gold in rows],
        "answer_em": [exact_match(line.predicted_answer, gold.answers) for line, gold in rows],
        "support_f1": [
            support_f1(line.predicted_support_idxs, gold.support) for line, gold in rows
        ],
    }
    answerable = [position for position, gold in enumerate(golds) if gold.answerable]
    figures = {
        name: _mean(values[position] for position in answerable) for name, values in scores.items()
    }
    if len(answerable) < len(golds):
        right = [line.predicted_answerable == gold.answerable for line, gold in rows]
        pairs = _pairs(ids, golds)
        for part in ("answer", "support"):
            values = scores[f"{part}_f1"]
            figures[f"group_{part}_sufficiency_f1"] = _mean(
                values[first] if right[first] and right[second] else 0.0 for first, second in pairs
            )
    return {name: round(value, 3) for name, value in figures.items()}


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


def _check_ids(wanted: Sequence[str], given: Sequence[str]) -> None:
    missing = list((Counter(wanted) - Counter(given)).elements())
    extra = list((Counter(given) - Counter(wanted)).elements())
    problems = []
    if missing:
        problems.append(f"no prediction for {_listed(missing)}")
    if extra:
        problems.append(f"predictions for ids that are not asked for: {_listed(extra)}")
    if problems:
        raise DataError(
            f"the predictions do not fit the data: {'; '.join(problems)}."
            " There must be one for each record, in the order of the data file."
        )
    for number, (want, have) in enumerate(zip(wanted, given, strict=True), start=1):
        if want != have:
            raise DataError(
                f"the predictions are in another order than the data: number {number} is for"
                f" '{have}' and should be for '{want}'"
            )


def _pairs(ids: Sequence[str], golds: Sequence[Gold]) -> list[tuple[int, int]]:
    """The positions (of the answerable, of the unanswerable example) of each id's pair."""
    by_id: dict[str, list[int]] = {}
    for position, name in enumerate(ids):
        by_id.setdefault(name, []).append(position)
    pairs, unpaired = [], []
    for name, positions in by_id.items():
        positions = sorted(positions, key=lambda position: not golds[position].answerable)
        if [golds[position].answerable for position in positions] != [True, False]:
            unpaired.append(name)
        else:
            pairs.append((positions[0], positions[1]))
    if unpaired:
        raise DataError(
            "the group figures of MuSiQue-Full need one answerable and one unanswerable record of"
            f" each id; this is not so for {_listed(unpaired)}"
        )
    return pairs


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0


def _listed(ids: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(f"'{name}'" for name in ids[:most])
    return f"{shown} and {len(ids) - most} more" if len(ids) > most else shown
