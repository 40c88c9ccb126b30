"""The task "letters" with scores, and two post-processors for it, as an installed plugin."""

from __future__ import annotations

from support.letters_task import LETTERS

SCORED = (
    LETTERS
    + '''
from flowtune_cli import PostProcessor


class Scored(Letters):
    name = "scored"

    def prediction_id(self, example):
        return "any"

    def scores(self, example, result):
        return {"length": len(result["text"])}


class Longest(PostProcessor):
    """The longest text of all rollouts."""

    name = "longest"
    tasks = ("scored",)
    nodes = ("draft",)

    def apply(self, task, examples, lines, note):
        note(f"longest: {sum('rollouts' in line for line in lines)} lines have rollouts")
        texts = [[r["result"]["text"] for r in line.get("rollouts", [])] for line in lines]
        return [
            {**line, "text": max([line["text"], *more], key=lambda text: (len(text), text))}
            for line, more in zip(lines, texts)
        ]


class Rank(PostProcessor):
    """The rank of each text by its length."""

    name = "rank"
    tasks = ("scored", "other")
    order = 1

    def apply(self, task, examples, lines, note):
        if any("length" not in line for line in lines):
            raise DataError("no length: predict with --scores")
        note("rank: after " + ",".join(line["text"] for line in lines))
        lengths = sorted(line["length"] for line in lines)
        return [{**line, "rank": lengths.index(line["length"])} for line in lines]


@hookimpl
def register_tasks(register):
    register(Scored)


@hookimpl
def register_postprocessors(register):
    register(Longest)
    register(Rank)
'''
)
