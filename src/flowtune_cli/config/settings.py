"""Every setting with its type, default and meaning."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date as Date
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

DEFAULT_MODEL = "smollm2-135m"
DEFAULT_MODEL_PACKAGE = "flowtune-smollm2"
"""The distribution whose plugin provides it."""


class Section(BaseModel):
    """A section of flowtune.toml: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True)


class ModelSettings(Section):
    """The base model that all nodes share."""

    name: str = Field(
        DEFAULT_MODEL,
        description="A model of a plugin (see 'flowtune ls models'), a Hugging Face id such as"
        " 'org/name', a local directory or a GGUF file.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a Hugging Face id.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="'auto' is bfloat16 where the processor or GPU is clearly faster with it, else"
        " float32; a run goes on with what it began with.",
    )
    quantization: Literal["none", "nf4"] = Field(
        "none",
        description="'nf4': 4-bit weights by bitsandbytes, with double quantisation; not for models"
        " with experts, whose matrices it would leave as they are.",
    )
    device: str = Field(
        "auto",
        description="'auto' (a GPU if there is one, under torchrun the one of LOCAL_RANK), 'cpu',"
        " 'cuda', 'cuda:1' ...",
    )
    devices: int = Field(
        1,
        ge=1,
        description="Split the model over so many GPUs, layer by layer, where one is too small for"
        " it: see docs/models.md.",
    )
    chat_template: str | None = Field(
        None, description="Which of the model's chat templates is used, where it has several."
    )
    template_options: dict[str, Any] = Field(
        {},
        description="Variables of the chat template, set as a whole, such as {enable_thinking ="
        " true}. A template that knows enable_thinking gets false: few outputs have room for"
        " thoughts.",
    )
    date: Date | None = Field(
        None,
        description="What a chat template that reads the clock takes for today; a run goes on with"
        " the day it began. Without one, today.",
    )
    special_tokens_in_text: bool = Field(
        False,
        description="Whether special tokens such as '<|im_end|>' in inputs and targets are special,"
        " and so can begin or end a turn; else they are plain text there. Those that a node's"
        " prompt template writes itself always are.",
    )
    context: int = Field(
        0,
        ge=0,
        description="Longest prompt plus output in tokens; 0 is what the model allows at most.",
    )
    trust_remote_code: bool = Field(
        False, description="Run Python code that comes with the model. Only for models you trust."
    )


class AdapterSettings(Section):
    """The LoRA adapter that each node has."""

    rank: int = Field(8, ge=1, description="Rank of the update.")
    alpha: float = Field(16.0, gt=0, description="Scale: alpha/sqrt(rank) with rslora, else /rank.")
    rslora: bool = Field(True, description="Rank-stabilised scaling (Kalajdzievski 2023).")
    targets: Literal["auto", "all-linear"] | list[str] = Field(
        "auto",
        min_length=1,
        description="The layers that are adapted. 'auto': those that compute queries and values, be"
        " they q_proj and v_proj or one for all; 'all-linear': all of the decoder but the output"
        " layer; or names, such as ['q_proj', 'o_proj']. A run goes on with what it began with.",
    )


class LearningSettings(Section):
    """How nodes learn from preferences and targets."""

    optimizer: str | dict[str, Any] = Field(
        "cocob",
        description="A name (see 'flowtune ls optimizers'), or a name with options, such as"
        " {name = \"adam\", lr = 1e-4}. It is set as a whole. For a single node, see 'optimizer'"
        " in [tasks.NAME.nodes.NODE].",
    )
    beta: float = Field(1.0, gt=0, description="How strongly DPO holds to the reference.")
    clip: float = Field(1.0, gt=0, description="Gradients are clipped to this infinity norm.")
    step_per: Literal["datum", "batch"] = Field(
        "datum", description="One optimizer step for each datum, or for a node's whole batch."
    )
    reference_weight: float = Field(
        0.5, ge=0, le=1, description="How far a reference adapter moves when it moves; 0: never."
    )


class VllmSettings(Section):
    """The servers of engine.rollouts = 'vllm', see docs/vllm.md."""

    urls: list[str] = Field(
        [], description="Where they are, such as ['http://127.0.0.1:8000']; one base model on all."
    )
    key: str | None = Field(
        None, description="The environment variable that has their API key, if they want one."
    )
    program: Path | None = Field(
        None,
        description="Instead of urls: vllm in its environment, such as '.venv-vllm/bin/vllm'. A"
        " server is started with it, and ended with the run.",
    )
    options: list[str] = Field(
        [],
        description="Further arguments for that one, such as ['--gpu-memory-utilization', '0.4'].",
    )
    timeout: float = Field(
        600.0,
        gt=0,
        description="Seconds within which a server that is started has to be there, an output has"
        " to be decoded, and a server that is gone has to be back; then the run ends.",
    )


class EngineSettings(Section):
    """How the model is run. None of this changes results in float32 by more than rounding."""

    in_flight: int = Field(8, ge=1, description="Examples played side by side.")
    deterministic: bool = Field(
        True,
        description="Whether a GPU computes the same to the bit each time, so that a seed fixes a"
        " run; false may be faster. A processor does in any case.",
    )
    effects: int = Field(
        32, ge=1, le=256, description="Effects (tools) that run at once, over all examples."
    )
    rollouts: Literal["local", "vllm"] = Field(
        "local",
        description="Where outputs are decoded while a run trains: here, or on servers of vLLM."
        " Scores, references and learning stay here.",
    )
    vllm: VllmSettings = VllmSettings()


class EvaluateSettings(Section):
    """Greedy figures on held-out examples, before training and at its checkpoints."""

    every: int = Field(
        0,
        ge=0,
        description="Episodes from one evaluation to the next: each is made at the first regular"
        " checkpoint (training.save_every) from then on, and one at the end. 0 is never.",
    )
    split: str | None = Field(
        None, description="The split; by default the task's first one that is not trained on."
    )
    data: Path | None = Field(
        None, description="A file or folder of the task's data; by default that of training."
    )
    limit: int = Field(0, ge=0, description="Only the first so many examples; 0 is all.")
    metric: str | None = Field(
        None,
        description="The figure whose highest value makes a checkpoint the best one, which is"
        " kept: a reward's name, or one of the task's own evaluation. After a minus (\"-loss\") it"
        " is the lowest value. By default the task's gate, or else its first figure.",
    )
    patience: int = Field(
        0,
        ge=0,
        description="Training ends after so many evaluations in a row without a better figure; 0:"
        " it does not.",
    )


class TrainingSettings(Section):
    """The online loop."""

    seed: int = Field(42, description="Shuffles the examples and seeds samples and adapters.")
    limit: int = Field(0, ge=0, description="Train on this many examples; 0 is all.")
    passes: int = Field(1, ge=1, description="Passes over the examples.")
    batch_size: int = Field(8, ge=1, description="Examples played with one state of the adapters.")
    save_every: int = Field(
        100, ge=1, description="Episodes between checkpoints; also the gate's window."
    )
    keep_checkpoints: int = Field(
        2,
        ge=1,
        description="Older checkpoints are deleted, but for the best (see [training.evaluate]).",
    )
    max_failures: float = Field(
        0.1, ge=0, le=1, description="Stop when a larger share of episodes or rollouts fails."
    )
    deviations: int = Field(
        0,
        ge=0,
        description="At how many steps of an episode alternatives are tried, drawn by the seed; 0"
        " is at all. A node's own 'deviations' limits its steps before.",
    )
    rollouts: int = Field(
        1,
        ge=1,
        description="To how many endings each alternative is played, and the episode's side with"
        " the same noise; their mean difference is what is learned from. For flows that sample:"
        " where nothing behind a step is drawn, one is played, as all would be the same.",
    )
    max_steps: int = Field(
        1000, ge=0, description="An episode that calls its nodes more often fails; 0 is no limit."
    )
    effect_timeout: float = Field(
        0.0, ge=0, description="Seconds that an attempt of an effect may take; 0 is no limit."
    )
    effect_retries: int = Field(
        0, ge=0, description="How often an effect is tried again after an exception."
    )
    episode_timeout: float = Field(
        0.0,
        ge=0,
        description="An episode fails that waits for other things than its nodes (tools, sockets)"
        " longer than so many seconds in all; 0 is no limit.",
    )
    rank_timeout: float = Field(
        1800.0,
        gt=0,
        description="Seconds that the processes of a run wait for one of them; it must be longer"
        " than a mini-batch, a checkpoint or the loading of the model ever takes.",
    )
    evaluate: EvaluateSettings = EvaluateSettings()


class RunSettings(Section):
    """Where runs are kept."""

    directory: Path = Field(Path("runs"), description="Each run gets a directory in this one.")
    trackers: list[str] = Field(
        [], description="Where figures are logged to, too: see 'flowtune ls trackers'."
    )


class Settings(Section):
    """All of flowtune.toml. ``tasks`` holds what the tasks and their nodes are set to."""

    preset: str | None = Field(
        None,
        description="Settings that the task brings under this name, see 'flowtune show TASK'. They"
        " override the task's defaults. Without a name, the model may have a default preset; 'none'"
        " uses none.",
    )
    model: ModelSettings = ModelSettings()
    adapter: AdapterSettings = AdapterSettings()
    learning: LearningSettings = LearningSettings()
    engine: EngineSettings = EngineSettings()
    training: TrainingSettings = TrainingSettings()
    run: RunSettings = RunSettings()
    tasks: dict[str, dict[str, Any]] = Field(
        {}, description="[tasks.NAME] for a task, [tasks.NAME.nodes.NODE] for one of its nodes."
    )


def subsections(table: type[BaseModel]) -> dict[str, type[Section]]:
    """The fields of a section that are sections of their own."""
    return {
        name: field.annotation
        for name, field in table.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }


def _sections(table: type[BaseModel], above: str = "") -> Iterator[tuple[str, type[Section]]]:
    for name, section in subsections(table).items():
        yield above + name, section
        yield from _sections(section, f"{above}{name}.")


SECTIONS: dict[str, type[Section]] = dict(_sections(Settings))
"""By name, as in flowtune.toml: "training", "training.evaluate"."""
