"""The nodes of the MuSiQue flow, with the paper's settings except for how `stop` learns."""

from __future__ import annotations

from typing import Any

from flowtune_cli import Generate, Judge, Node, Rank, Template

from . import prompts
from .features import RETRIEVE_FEATURES
from .settings import MusiqueSettings

# A small model goes on after the line that was asked for.
ONE_LINE = ("\n",)


def answerable_nodes(settings: MusiqueSettings) -> list[Node]:
    """The nodes of Figure 1, in the order of their first calls."""
    return [*_search_nodes(settings), *_answer_nodes()]


def full_nodes(settings: MusiqueSettings) -> list[Node]:
    """Those of Figure 1, and the sufficiency node of Figure 3."""
    sufficiency = _judge(
        settings,
        "sufficiency",
        prompts.SUFFICIENCY_BY_CHOICE,
        text=prompts.SUFFICIENCY_FACTORS,
        scale=1.0,
        threshold=-0.95,
    )
    sufficiency.reward = "sufficiency"
    sufficiency.learn = "supervised"
    return [*answerable_nodes(settings), sufficiency]


def _judge(
    settings: MusiqueSettings, name: str, by_choice: Template, **by_likelihood: Any
) -> Judge:
    if settings.judging == "choice":
        return Judge(name=name, prompt=by_choice)
    return Judge(
        name=name, prompt=prompts.JUDGED_BY_LIKELIHOOD, score="likelihood", **by_likelihood
    )


def _search_nodes(settings: MusiqueSettings) -> list[Node]:
    immediate = settings.credit == "immediate"
    query = Generate(
        name="query",
        prompt=prompts.QUERY,
        reward="hit" if immediate else "support_f1",
        max_new_tokens=50,
        stop=ONE_LINE,
    )
    if settings.ranking == "likelihood":
        retrieve = Rank(
            name="retrieve",
            prompt=prompts.RETRIEVE_BY_LIKELIHOOD,
            score="likelihood",
            text=prompts.RETRIEVE_FACTORS,
            features=RETRIEVE_FEATURES,
            negatives=1,
        )
    else:
        retrieve = Rank(
            name="retrieve", prompt=prompts.RETRIEVE_BY_CHOICE, labels=prompts.RETRIEVE_LABELS
        )
    stop = _judge(
        settings,
        "stop",
        prompts.STOP_BY_CHOICE,
        text=(prompts.QUESTION_AFTER_DOCUMENTS,),
        scale=3.0,
        threshold=-3.0,
    )
    for node in (retrieve, stop):
        node.reward = "support_f1"
    retrieve.learn = "supervised" if immediate else "preferences"
    # The labels would say to go on while anything supporting is left. Support F1 is better served
    # by stopping once the next document is not likely to be one of those.
    stop.learn = "preferences"
    return [query, retrieve, stop]


def _answer_nodes() -> list[Node]:
    verbose = Generate(
        name="verbose",
        prompt=prompts.VERBOSE,
        reward="answer_f1",
        alternatives=3,
        pairs="best",
        max_new_tokens=100,
        stop=ONE_LINE,
    )
    concise = Generate(
        name="concise",
        prompt=prompts.CONCISE,
        reward="answer_f1",
        learn="supervised",
        max_new_tokens=25,
        stop=ONE_LINE,
    )
    return [verbose, concise]
