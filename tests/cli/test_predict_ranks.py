"""``flowtune predict`` as several processes: the same file, whatever befalls one of them."""

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
from support.runs_compared import press_ctrl_c
from support.scored_task import SCORED

Run = Callable[..., Any]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="signals"),
]

PREDICT = ("predict", "letters", "--out", "out.jsonl")
TWO = ("--processes", "2")
FEW = ("--set", "engine.in_flight=2")


def test_with_rollouts_the_file_and_what_is_told_are_the_same(site: Site, disturbed: Site) -> None:
    site.install("scored", SCORED)
    command = ("predict", "scored", "--scores", "--rank", "--longest", "--json", "--out")
    one, two = (
        start(disturbed, *FLOWTUNE, *command, f"{name}.jsonl", *more)
        for name, more in (("one", ()), ("two", TWO))
    )
    assert (one.returncode, two.returncode) == (0, 0), two.stderr
    assert Path("two.jsonl").read_bytes() == Path("one.jsonl").read_bytes()
    assert all(json.loads(line)["rollouts"] for line in Path("one.jsonl").read_text().splitlines())
    told, told_by_one = (json.loads(done.stdout.replace("two.", "one.")) for done in (two, one))
    assert told == told_by_one
    for text in ("8/8 episodes", "wrote 8 predictions", "longest: 8 lines", "Next, try"):
        assert (one.stderr.count(text), two.stderr.count(text)) == (1, 1), two.stderr
    assert not list(Path().glob("*.partial*"))


def test_under_torchrun_it_goes_on_with_what_one_process_began(
    disturbed: Site, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("predict", "letters", "--out", "whole.jsonl").code == 0
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, 9)
        assert run(*PREDICT, *FEW).code == 130
    written = Path("out.jsonl.partial").read_bytes()
    count = len(written.splitlines())
    assert 0 < count < 8
    done = start(disturbed, *TORCHRUN, "-m", "flowtune_cli", *PREDICT, *FEW)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"which has {count} of 8 lines") == 1
    whole = Path("whole.jsonl").read_bytes()
    assert Path("out.jsonl").read_bytes() == whole
    assert done.stdout == ""


def test_a_flow_that_fails_is_told_once_and_what_is_before_it_kept(disturbed: Site) -> None:
    fail = ("--set", "tasks.letters.fail_at=train-3")
    done = start(disturbed, *FLOWTUNE, *PREDICT, *fail, *TWO, "--json")
    assert done.returncode == 1
    assert done.stderr.count("flowtune: error: ") == 1, done.stderr
    assert "first one that failed is example 'train-3'" in done.stderr
    assert "RuntimeError: this example always fails" in done.stderr
    assert "has 3 of 8 lines; run the same command again to resume" in done.stderr
    assert json.loads(done.stdout)["failed"] == ["train-3"]
    assert len(Path("out.jsonl.partial").read_text().splitlines()) == 3


def test_stopped_on_one_rank_all_stop_and_one_process_goes_on(disturbed: Site, run: Run) -> None:
    Path("signal-1").write_text("SIGTERM 4")
    done = start(disturbed, *FLOWTUNE, *PREDICT, *TWO, "--set", "engine.in_flight=1")
    assert done.returncode == 130, done.stderr
    count = len(Path("out.jsonl.partial").read_text().splitlines())
    assert count < 8
    assert done.stderr.count(f"note: interrupted. {Path('out.jsonl.partial').absolute()} has") == 1
    assert "Traceback" not in done.stderr
    assert "error" not in done.stderr
    assert run(*PREDICT, "--set", "engine.in_flight=1").code == 0
    assert run("predict", "letters", "--out", "whole.jsonl").code == 0
    assert Path("out.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def test_a_killed_rank_is_named_in_one_message(disturbed: Site) -> None:
    Path("signal-1").write_text("SIGKILL 2")
    done = start(disturbed, *FLOWTUNE, *PREDICT, *TWO, "--set", "engine.in_flight=1")
    assert done.returncode == 1
    assert done.stderr.count("flowtune: error: ") == 1, done.stderr
    assert re.search(r"error: rank 1 \(process \d+ on \S+\) is lost", done.stderr)
    assert "run the same command again to resume" in done.stderr
    assert Path("out.jsonl.partial").exists()


@pytest.mark.parametrize(
    ("value", "code", "said"),
    [
        ("float('nan')", 2, "the prediction at position 3 is not made of JSON values"),
        ("1 / 0", 1, "failed unexpectedly:\n.*\nZeroDivisionError"),
    ],
)
def test_an_error_is_told_once_and_what_is_before_it_kept(
    site: Site, disturbed: Site, value: str, code: int, said: str
) -> None:
    """It is in rank 1's share, after rank 0 has written its first line."""
    text = SCORED.replace(
        'return {"length": len(result["text"])}',
        f"""if example.id == "train-3":
            while not pathlib.Path("out.jsonl.partial").stat().st_size:
                time.sleep(0.01)
            return {{"length": {value}}}
        return {{"length": 1}}""",
    ).replace("import json\n", "import json, pathlib, time\n", 1)
    site.install("scored", text)
    few = ("--set", "engine.in_flight=1")
    done = start(disturbed, *FLOWTUNE, "predict", "scored", "--out", "out.jsonl", *TWO, *few)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("flowtune: error: ") == 1, done.stderr
    assert re.search(rf"rank 1 \(.*\): {said}", done.stderr, re.DOTALL)
    assert "run the same command again to resume" in done.stderr
    assert len(Path("out.jsonl.partial").read_text().splitlines()) in (2, 3)
