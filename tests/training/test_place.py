"""What the environment of a launcher says of a process."""

from __future__ import annotations

import pytest

from flowtune_cli.flow.errors import UsageError
from flowtune_cli.training.place import Place

MEETING = {"MASTER_ADDR": "host", "MASTER_PORT": "29500"}
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", **MEETING}
SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "77",
    **MEETING,
}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, Place()),
        # A stray variable, or a shell within an allocation, makes no several processes.
        ({"RANK": "2"}, Place()),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "77"}, Place()),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Place(0, 1, 0)),
        (TORCHRUN, Place(3, 4, 1)),
        ({**TORCHRUN, "TORCHELASTIC_RUN_ID": "none"}, Place(3, 4, 1, 0, "process-9")),
        (
            {**TORCHRUN, "TORCHELASTIC_RUN_ID": "job", "TORCHELASTIC_RESTART_COUNT": "2"},
            Place(3, 4, 1, 2, "job"),
        ),
        (SLURM, Place(5, 8, 1, 0, "slurm-77")),
        ({**SLURM, "SLURM_RESTART_COUNT": "1"}, Place(5, 8, 1, 1, "slurm-77")),
    ],
)
def test_the_place_of_a_process(environment: dict[str, str], place: Place) -> None:
    assert Place.of(environment, launcher=9) == place


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2", **MEETING}, "RANK is not set"),
        ({"WORLD_SIZE": "two", "RANK": "0", **MEETING}, "WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": "2", "RANK": "2", **MEETING}, "ranks count from 0"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "MASTER_ADDR is not set"),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "host"}, "MASTER_PORT is not set"),
    ],
)
def test_variables_that_make_no_sense(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Place.of(environment, launcher=9)
