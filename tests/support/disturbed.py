"""Commands as several processes on the tiny model, one rank of which may get a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from support.installed_plugins import Site
from support.letters_task import LETTERS

FLOWTUNE = (sys.executable, "-m", "flowtune_cli")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")

DISTURBED = LETTERS.replace(
    """        draft = await episode.call("draft\"""",
    """        disturb(episode)
        draft = await episode.call("draft\"""",
).replace(
    "class Letters(",
    '''def disturb(episode):
    """What a file wishes for this rank at an episode, once: a signal, or that the disk is full, for
    all files or for checkpoints.

    It may be wished for after so many restarts: ``signal-RANK`` or ``signal-RANK-after-RESTARTS``.
    """
    global EPISODES
    EPISODES += not episode.is_rollout
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    after = "" if restarts == "0" else "-after-" + restarts
    wish = pathlib.Path("signal-" + os.environ.get("RANK", "none") + after)
    if wish.exists():
        name, number = wish.read_text().split()
        if EPISODES >= int(number):
            wish.unlink()
            if name == "FULL":
                limit_files(0)
            elif name == "FULL_FOR_CHECKPOINTS":
                save = loop.save_checkpoint
                loop.save_checkpoint = lambda *args, **more: fail_to_save(save, *args, **more)
            else:
                os.kill(os.getpid(), getattr(signal, name))


def limit_files(size):
    """From there on no file takes a byte more."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def fail_to_save(save, *args, **more):
    limit_files(0)
    try:
        save(*args, **more)
    finally:
        limit_files(resource.RLIM_INFINITY)


EPISODES = 0


class Letters(''',
)
DISTURBED = (
    "import os, pathlib, resource, signal\nfrom flowtune_cli.training import loop\n" + DISTURBED
)


def start(site: Site, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in a process of its own."""
    with subprocess.Popen(
        command,
        env=site.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=300)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, out, err)
