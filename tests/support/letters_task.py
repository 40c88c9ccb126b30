"""A task that trains within a second on the tiny model, as an installed plugin."""

from __future__ import annotations

LETTERS = '''
import json
from typing import ClassVar

from pydantic import BaseModel

from flowtune_cli import (
    DataError, Example, Generate, Judge, Task, Template, hookimpl, read_text_lines,
)


class LettersSettings(BaseModel):
    """What is asked."""

    loud: bool = False
    fail_at: str = ""


class Letters(Task):
    """Draft a text, judge it, write another: rewards depend on each letter."""

    name = "letters"
    summary = "letters and numbers"
    gate = "sum"
    Settings = LettersSettings
    splits = ("train", "test")
    defaults = {"learning.optimizer": {"name": "cocob", "alpha": 10.0},
                "training.save_every": 4, "training.batch_size": 2, "adapter.rank": 2}
    nodes = [
        Generate(name="draft", prompt=Template("Draft {question}"), reward="sum",
                 alternatives=2, max_new_tokens=5),
        Judge(name="check", prompt=Template("Good? {draft}"), learn="supervised"),
        Generate(name="write", prompt=Template("Write {draft} {good}", system="Briefly."),
                 reward="sum", max_new_tokens=4),
    ]

    def examples(self, source, split):
        if source is None:
            size = 8 if split == "train" else 5
            for number in range(size):
                yield Example(f"{split}-{number}", {"question": f"{split} {number}"}, number)
            return
        for number, line in read_text_lines(source):
            try:
                record = json.loads(line)
            except ValueError as error:
                raise DataError(f"{source}:{number}: {error}") from None
            gold = record.pop("gold", None)
            yield Example(record.pop("id"), record, gold)

    async def run(self, episode, example):
        if example.id == self.settings.fail_at:
            raise RuntimeError("this example always fails")
        draft = await episode.call("draft", question=example.question)
        good = await episode.call("check", draft=draft)
        if example.gold is not None:
            episode.target("check", example.gold % 2 == 0)
        text = await episode.call("write", draft=draft, good=good)
        defined = example.gold is not None and example.gold != 3
        episode.reward("sum", (sum(map(ord, draft + text)) % 11) / 10 if defined else None)
        return {"text": text.upper() if self.settings.loud else text, "good": good}

    def evaluate(self, examples, predictions):
        for example, prediction in zip(examples, predictions, strict=True):
            if prediction["id"] != example.id:
                raise DataError(f"{prediction['id']} is not {example.id}")
        good = sum(prediction["good"] == "Yes" for prediction in predictions)
        return {"good": good / len(predictions), "count": len(predictions)}


@hookimpl
def register_tasks(register):
    register(Letters)
'''
