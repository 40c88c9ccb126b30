"""Mailroom: which team a customer's message is for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from flowtune_cli import (
    DataError,
    Episode,
    Example,
    Generate,
    Judge,
    Node,
    Task,
    Template,
    UsageError,
    hookimpl,
    read_text_lines,
)

SUMMARY = Template(
    "Message: I bought a lamp from you last week, and now it stays dark.\n"
    "In short: A lamp does not work.\n\n"
    "Message: {message}\n"
    "In short:",
    chat=False,
    truncate=("message",),
)
TEAM = Template(
    system="You pass requests on to teams. Reply with the name of one team, nothing else.",
    user="Request: {summary}\nTeams: {teams}\nTeam:",
    separator=", ",
)


class MailroomSettings(BaseModel):
    """What can be set in [tasks.mailroom]."""

    model_config = ConfigDict(extra="forbid")

    teams: tuple[str, ...] = Field(
        ("billing", "delivery", "repairs"), min_length=2, description="Who a message can be for."
    )


class Record(BaseModel):
    """One line of a data file; ``team`` is missing where nobody knows it yet."""

    id: str
    message: str
    team: str | None = None


class Mailroom(Task):
    """Sum a message up, then choose the team that it is for."""

    name = "mailroom"
    summary = "which team a customer's message is for"
    gate = "routed"
    Settings = MailroomSettings

    @classmethod
    def default_nodes(cls, settings: MailroomSettings) -> Sequence[Node]:
        return [
            Generate(
                name="summary",
                prompt=SUMMARY,
                reward="certainty",
                alternatives=3,
                max_new_tokens=20,
                stop=("\n",),
            ),
            Judge(name="team", prompt=TEAM, labels=settings.teams, learn="supervised"),
        ]

    def examples(self, source: Path | None, split: str) -> Iterator[Example]:
        if source is None:
            raise UsageError("mailroom has no data of its own: pass --data, a file or folder")
        path = source / f"{split}.jsonl" if source.is_dir() else source
        for number, line in read_text_lines(path):
            try:
                record = Record.model_validate_json(line)
            except ValueError as error:
                raise DataError(f"{path}:{number}: {error}") from None
            if record.team not in (None, *self.settings.teams):
                raise DataError(f"{path}:{number}: there is no team '{record.team}'")
            yield Example(record.id, {"message": record.message}, gold=record.team)

    async def run(self, episode: Episode, example: Example) -> Mapping[str, Any]:
        summary = await episode.call("summary", message=example.message)
        team = await episode.call("team", summary=summary, teams=self.settings.teams)
        if example.gold is not None:
            logprobs = episode.last.response.detail["logprobs"]
            episode.reward("certainty", math.exp(logprobs[example.gold]))
            episode.reward("routed", float(team == example.gold))
            episode.target("team", example.gold)
        return {"team": team, "summary": summary}

    def evaluate(
        self, examples: Sequence[Example], predictions: Sequence[Mapping[str, Any]]
    ) -> Mapping[str, float]:
        if [example.id for example in examples] != [line.get("id") for line in predictions]:
            raise DataError("the predictions are not those of the examples, in their order")
        if any(example.gold is None for example in examples):
            raise DataError("some examples have no team, so nobody knows what is right for them")
        pairs = zip(examples, predictions, strict=True)
        right = [example.gold == line.get("team") for example, line in pairs]
        return {"routed": sum(right) / len(right)}

    def question_text(self, example: Example) -> str:
        return str(example.message)


@hookimpl
def register_tasks(register: Callable[[type], None]) -> None:
    register(Mailroom)
