"""The task "letters" without rewards, whose nodes have the evaluator "longer", as a plugin."""

from __future__ import annotations

from support.letters_task import LETTERS

_UNREWARDED = (
    LETTERS.replace('reward="sum"', 'evaluator="longer"')
    .replace('gate = "sum"', "")
    .replace("episode.reward(", "(lambda *given: None)(")
    .replace('"letters"', '"judged"')
)

JUDGED = (
    _UNREWARDED
    + """
class Longer:
    name = "longer"

    def __init__(self, look: bool = False):
        self.look = look

    async def compare(self, ask, task, example, first, second):
        if self.look:
            first.steps
        return len(second.result["text"]) - len(first.result["text"])


@hookimpl
def register_rewards(register):
    register(Longer)
"""
)
