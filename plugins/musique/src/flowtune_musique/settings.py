"""The settings of the two MuSiQue tasks, from ``[tasks.NAME]`` in flowtune.toml."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class MusiqueSettings(BaseModel):
    """Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    max_retrievals: int = Field(
        4, ge=1, description="Documents that are retrieved at most for one question."
    )
    min_retrievals: int = Field(
        2,
        ge=1,
        description="Documents that are retrieved before stop is asked for the first time, as each"
        " question needs two at least; 1 is the paper's way.",
    )
    ranking: Literal["likelihood", "choice"] = Field(
        "likelihood",
        description="How a document is scored: by the likelihoods of question and query after it"
        " and of its title as what is looked up next, or by the log-odds of Yes to whether it"
        " helps (the paper's way).",
    )
    judging: Literal["likelihood", "choice"] = Field(
        "likelihood",
        description="How stop and sufficiency are scored: by the likelihood of the question after"
        " the documents that were found, or by Yes against No (the paper's way).",
    )
    credit: Literal["immediate", "deviation"] = Field(
        "immediate",
        description="What query and retrieve learn from: the supporting documents, at once; or,"
        " as stop does, preferences on support F1 alone, by deviations.",
    )
    match_hops: bool = Field(
        True,
        description="Thin the training examples to the dev set's mix of hops: a quarter of 2hop,"
        " half of 3hop, all of 4hop.",
    )
    hub_repo: str = Field(
        "voidful/MuSiQue",
        description="The Hugging Face dataset that is downloaded from without --data. It must hold"
        " the official files at its top, such as musique_ans_v1.0_train.jsonl.",
    )
    hub_revision: str = Field("main", description="Branch, tag or commit of that dataset.")
