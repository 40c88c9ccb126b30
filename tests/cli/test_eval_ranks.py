"""``flowtune eval`` as several processes: the same figures, predictions and judgements."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.disturbed import FLOWTUNE, TORCHRUN, start
from support.installed_plugins import Site
from support.judged_task import JUDGED
from support.letters_task import LETTERS

Run = Callable[..., Any]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="signals"),
]

TWO = ("--processes", "2")


def test_figures_predictions_and_what_is_told_are_the_same(disturbed: Site, run: Run) -> None:
    """One example fails, of rank 1's share; the second flow has the first one's model."""
    assert run("train", "letters", "--name", "a", "--limit=4").code == 0
    command = ("eval", "letters", "--run=a", "--baseline", "--json")
    fail = "--set=tasks.letters.fail_at=test-1"
    one = run(*command, fail, "--out=one")
    two = start(disturbed, *FLOWTUNE, *command, fail, "--out=two", *TWO)
    assert (one.code, two.returncode) == (0, 0), two.stderr
    assert json.loads(two.stdout) == json.loads(one.out)
    assert json.loads(one.out)["flows"][1]["figures"]["sum"]["defined"] == 3
    for name in ("untrained.jsonl", "a@4.jsonl"):
        assert Path("two", name).read_bytes() == Path("one", name).read_bytes()
    for text in ("10/10 episodes", "'a' failed for 1 of 5 examples", "wrote 4 predictions to"):
        assert two.stderr.count(text) == one.err.count(text) > 0, two.stderr


def test_evaluators_judge_alike_under_torchrun(disturbed: Site, run: Run) -> None:
    """Without the ``--``, torchrun takes ``--run`` for one of its own options."""
    disturbed.install("judged", JUDGED)
    assert run("train", "judged", "--name", "a", "--limit=4").code == 0
    command = ("eval", "judged", "--run=a", "--baseline", "--json")
    one = run(*command)
    two = start(disturbed, *TORCHRUN, "-m", "--", "flowtune_cli", *command)
    assert (one.code, two.returncode) == (0, 0), two.stderr
    wins = json.loads(one.out)["flows"][1]["judged"]["longer"]
    assert wins["better"] + wins["worse"] + wins["ties"] == 5
    assert json.loads(two.stdout) == json.loads(one.out)


def test_stopped_on_one_rank_all_stop(disturbed: Site) -> None:
    Path("signal-1").write_text("SIGTERM 2")
    done = start(disturbed, *FLOWTUNE, "eval", "letters", "--baseline", *TWO, "--json")
    assert done.returncode == 130, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "error" not in done.stderr


def test_processes_that_read_other_data_are_told(disturbed: Site) -> None:
    more = "for number in range(size + (os.environ.get('RANK') == '1')):"
    text = LETTERS.replace("for number in range(size):", more).replace('"letters"', '"other"')
    disturbed.install("other", "import os\n" + text)
    done = start(disturbed, *FLOWTUNE, "eval", "other", "--baseline", *TWO)
    assert done.returncode == 2
    assert len(re.findall("flowtune: error: ", done.stderr)) == 1, done.stderr
    assert "rank 1 has read other data than rank 0" in done.stderr
