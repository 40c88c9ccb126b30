"""The settings of a program as a task: ``[tasks.NAME]``."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from ..flow.paths import PathText

MOVABLE = (
    "function",
    "program",
    "directory",
    "data",
    "reward",
    "processes",
    "timeout",
    "worker",
)
"""What a run may go on with otherwise than it began: where files are, and how they are started."""


class ProgramSettings(BaseModel):
    """A program that calls its nodes through OpenAI's API, with its data and its reward."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    function: PathText | None = Field(
        None,
        description="The flow, as FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION: 'async def"
        " run(example, client)'.",
    )
    program: str | None = Field(
        None,
        description="Or an executable, such as 'python flow.py', that reads an example as JSON on"
        " stdin and prints its result as JSON on stdout.",
    )
    directory: Path = Field(
        Path(),
        description="Where the executable is started; by default where the file is that names it.",
    )
    data: PathText | None = Field(
        None,
        description="A .jsonl, .csv, .tsv or .parquet file, a folder with one for each split, or"
        " hf://OWNER/NAME. --data overrides it.",
    )
    reward: PathText | None = Field(
        None,
        description="FILE.py:FUNCTION of (example, result) that returns a number, or a table of"
        " them; 'async' if it asks the world.",
    )
    gold: tuple[str, ...] = Field(
        (),
        description="Fields that the program is not shown; rewards and targets see them.",
    )
    models: dict[str, dict[str, str]] = Field(
        {},
        description="Models of other servers that the program asks, too, embeddings included:"
        " {NAME = {base_url = ..., model = ..., api_key_env = ...}}. They are asked once for an"
        " episode and its rollouts, and learn nothing; keys come from the environment.",
    )
    processes: int = Field(8, ge=1, description="Executables that run at once.")
    timeout: float = Field(
        600.0,
        ge=0,
        description="Seconds that an executable may take for an example, without what it waits for"
        " its nodes; 0 is no limit.",
    )
    worker: bool = Field(
        False,
        description="The executable stays: it reads a line an example, and prints one for each.",
    )
