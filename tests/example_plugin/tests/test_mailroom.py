"""Mailroom replays, and learns what it should, without a model."""

from pathlib import Path

from flowtune_cli import Example
from flowtune_cli.testing import ScriptedEngine, assert_replays, check_task, deviate
from mailroom.plugin import Mailroom

DATA = Path(__file__).parents[1] / "data"


def test_it_is_complete():
    check_task(Mailroom(), data=DATA)


def test_it_replays():
    task = Mailroom()
    assert_replays(task, task.examples(DATA, "dev"))


def score(node, prompt, completion):
    """The team knows what a parcel is, and otherwise thinks of money."""
    right = "delivery" if "parcel" in prompt else "billing"
    return 0.0 if completion == right else -3.0


def test_the_summary_that_helps_the_team_is_preferred():
    texts = {"summary": ["A customer wrote.", "A parcel is late."]}
    engine = ScriptedEngine(write=texts, score=score)
    example = Example("a", {"message": "Where is it?"}, gold="delivery")
    [preference] = deviate(Mailroom(), engine, example).preferences
    assert preference.chosen.text == "A parcel is late."
