"""A task whose flow is broken in the way that its setting says, as an installed plugin."""

from __future__ import annotations

ODD = '''
import time
import uuid
from datetime import date, datetime

from pydantic import BaseModel

from flowtune_cli import Example, Generate, Task, Template, hookimpl

WORDS = "amber birch cedar delta ember fjord grove heath inlet jetty".split()


class OddSettings(BaseModel):
    """What is wrong."""

    wrong: str = ""


class Odd(Task):
    """Shows its node what the setting says."""

    name = "odd"
    Settings = OddSettings
    splits = ("train",)
    defaults = {"training.save_every": 4, "training.batch_size": 2, "adapter.rank": 2}
    nodes = [
        Generate(name="write", prompt=Template("Write {shown}"), reward="sum", alternatives=2,
                 max_new_tokens=4),
    ]

    def examples(self, source, split):
        for number in range(6):
            yield Example(f"e{number}", {"question": f"q{number}"}, gold=number)

    def shown(self, example):
        now = datetime.now()
        return {
            "": example.question,
            "set": " ".join({f"{word}{example.gold}" for word in WORDS}),
            "hash": hash(example.question),
            "uuid": uuid.uuid4(),
            "datetime": f"{now:%Y-%m-%d}",
            "date": date.today(),
            "strftime": time.strftime("%A, %d %B %Y"),
            "year": time.localtime().tm_year,
        }.get(self.settings.wrong, example.question)

    async def run(self, episode, example):
        text = await episode.call("write", shown=self.shown(example))
        name = "sun" if self.settings.wrong == "reward" else "sum"
        episode.reward(name, sum(map(ord, text)) % 11 / 10)
        return {"text": text}


@hookimpl
def register_tasks(register):
    register(Odd)
'''
