"""Which of several processes this one is, by the environment of what has started it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..flow.errors import UsageError

_SLURM = {"rank": "SLURM_PROCID", "size": "SLURM_STEP_NUM_TASKS", "local_rank": "SLURM_LOCALID"}
_USUAL = {"rank": "RANK", "size": "WORLD_SIZE", "local_rank": "LOCAL_RANK"}
"""What torchrun, accelerate, Kubernetes' PyTorchJob and ``--processes`` set."""


@dataclass(frozen=True)
class Place:
    """The place of a process among those that train one run.

    Args:
        rank: its number, from 0; 0 writes the run.
        size: how many there are.
        local_rank: its number on this machine, which is that of its GPU.
        restarts: how often its launcher has started all of them again.
        launch: names the launch, over all restarts; empty if nothing does.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    restarts: int = 0
    launch: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str], launcher: int) -> Place:
        """The place that an environment tells of.

        Args:
            launcher: the process that has started this one.

        Raises:
            UsageError: a variable is missing or makes no sense.
        """
        names = _USUAL
        # A shell within an allocation has variables of Slurm, too; only a step has these.
        if "WORLD_SIZE" not in environment and _number(environment, _SLURM["size"], 1) > 1:
            names = _SLURM
        if names["size"] not in environment:
            return cls()
        rank, size = (_number(environment, names[field], None) for field in ("rank", "size"))
        local_rank = _number(environment, names["local_rank"], rank)
        if not rank < size:
            raise UsageError(
                f"{names['rank']} is {rank}, but {names['size']} is {size}: ranks count from 0"
            )
        if size > 1:
            for name in ("MASTER_ADDR", "MASTER_PORT"):
                if not environment.get(name):
                    raise UsageError(
                        f"{names['size']} is {size}, but {name} is not set: it says where the"
                        " processes meet, and must be the same for all"
                    )
        job = environment.get("SLURM_JOB_ID", "")
        restarts = _number(environment, "TORCHELASTIC_RESTART_COUNT", 0) + _number(
            environment, "SLURM_RESTART_COUNT", 0
        )
        # A launch by torchrun on one machine has no name of its own unless it is given one.
        launch = environment.get("TORCHELASTIC_RUN_ID", "")
        if launch in ("", "none"):
            launch = f"slurm-{job}" if job else f"process-{launcher}" if launch else ""
        return cls(rank, size, local_rank, restarts, launch)

    @property
    def variables(self) -> dict[str, str]:
        """The usual variables of this place."""
        values = {"rank": self.rank, "size": self.size, "local_rank": self.local_rank}
        return {_USUAL[field]: str(value) for field, value in values.items()}


def _number(environment: Mapping[str, str], name: str, default: int | None) -> int:
    text = environment.get(name)
    if not text and default is not None:
        return default
    if not text:
        raise UsageError(
            f"{name} is not set, although there are several processes by their environment"
        )
    if not text.isdecimal():
        raise UsageError(f"{name} is '{text}', which is no number from 0 on")
    return int(text)
