"""Invented MuSiQue records, small enough for the tiny model."""

from __future__ import annotations

from typing import Any


def musique_record(record_id: str, marker: str = "") -> dict[str, Any]:
    """A record of two paragraphs in the official format.

    Args:
        marker: makes the paragraphs differ and the record unanswerable: the other one of a pair.
    """
    return {
        "id": record_id,
        "question": f"which {record_id}?",
        "paragraphs": [
            {
                "idx": idx,
                "title": f"T{idx}",
                "paragraph_text": f"fact {idx} of {record_id}{marker}",
                "is_supporting": idx == 0,
            }
            for idx in range(2)
        ],
        "answer": "fact",
        "answer_aliases": [],
        "answerable": not marker,
    }
