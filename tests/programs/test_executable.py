"""Executables as flows: what they are given, and every way in which they can fail."""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import psutil
import pytest

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.nodes import Chat
from flowtune_cli.programs import process
from flowtune_cli.programs.executable import Executable
from flowtune_cli.runtime.play import play
from flowtune_cli.runtime.scheduler import Scheduler
from support.fake_engine import FakeEngine, FlowTask, explored, run_deviate
from support.program_files import ASK, PROGRAM, WORKER, executable, script

EXAMPLE = Example("e1", {"question": "why"}, gold={})


def task_of(command: str, directory: Path, reward: Any = None, **more: Any) -> FlowTask:
    """A task that plays a command, and rewards its result."""
    options = {"processes": 4, "timeout": 20.0, "persistent": False, **more}
    program = Executable(command, directory, **options)

    async def flow(episode: Episode, example: Example) -> Any:
        result = await program.play(episode, example.inputs)
        if reward is not None:
            episode.reward("r", reward(result))
        return {"result": result}

    task = FlowTask([Chat(name="draft", reward="r"), Chat(name="write", reward="r")], flow)
    task.program = program  # type: ignore[attr-defined]
    return task


def played(task: FlowTask, *examples: Example, engine: Any = None) -> list[Episode]:
    coroutines = [play(task, example) for example in examples or (EXAMPLE,)]
    return Scheduler(engine or FakeEngine()).run(coroutines)


def failure(command: str, directory: Path, **more: Any) -> str:
    [episode] = played(task_of(command, directory, **more))
    assert episode.failure is not None
    return episode.failure.error


def no_process_of(mark: str) -> bool:
    """Whether no process has this text among its arguments, a moment later at most."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        alive = [
            found
            for found in psutil.process_iter(["cmdline", "status"])
            if mark in " ".join(found.info["cmdline"] or ())
            and found.info["status"] != psutil.STATUS_ZOMBIE
        ]
        if not alive:
            return True
        time.sleep(0.02)
    return False


def test_an_example_goes_in_and_a_result_comes_out(tmp_path: Path) -> None:
    [episode] = played(task_of(script(tmp_path / "flow.py", PROGRAM), tmp_path))
    assert episode.failure is None
    draft, write = episode.steps
    assert (draft.node, write.node) == ("draft", "write")
    assert json.loads(draft.prompt_text)["messages"][0]["content"] == "Draft why"
    assert episode.result["result"] == {"text": write.output.text, "draft": draft.output.text}


def test_it_is_started_again_for_each_rollout_which_replays(tmp_path: Path) -> None:
    task = task_of(
        script(tmp_path / "flow.py", PROGRAM), tmp_path, lambda result: int(result["text"])
    )
    trace = run_deviate(FakeEngine(), task, example=EXAMPLE)
    assert explored(task)
    assert [(d.node, d.rollout and d.rollout.failure) for d in trace.deviations] == [
        ("draft", None),
        ("write", None),
    ]
    first = trace.deviations[0].rollout
    assert first is not None
    assert first.steps[0].substituted
    assert json.loads(first.steps[1].prompt_text)["messages"][0]["content"] == (
        f"Write {first.steps[0].output.text}"
    )


ONE_AFTER_THE_OTHER_OR_AT_ONCE = (
    ASK
    + """
import pathlib, threading, time

texts = {}
one, two = (
    threading.Thread(target=lambda text=text: texts.update({text: ask("draft", text)}))
    for text in ("one", "two")
)
if pathlib.Path("started").exists():
    two.start()
    time.sleep(0.2)
    one.start()
else:
    pathlib.Path("started").touch()
    one.start()
    one.join()
    two.start()
one.join()
two.join()
print(json.dumps({"text": texts["one"]}))
"""
)


def test_a_call_that_comes_earlier_than_it_did_is_answered_as_it_was(tmp_path: Path) -> None:
    """Two calls that depend on nothing; whether the second comes in time is chance."""
    task = task_of(
        script(tmp_path / "flow.py", ONE_AFTER_THE_OTHER_OR_AT_ONCE),
        tmp_path,
        lambda got: int(got["text"]),
    )
    trace = run_deviate(FakeEngine(), task, example=EXAMPLE)
    assert [step.concurrent for step in trace.episode.steps] == [False, False]
    assert trace.failures == []
    rollout = trace.deviations[0].rollout
    assert rollout is not None
    assert {(s.substituted, s.recorded, s.concurrent) for s in rollout.steps} == {
        (True, False, True),
        (False, True, True),
    }


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_a_shell_script_with_curl(tmp_path: Path) -> None:
    command = executable(
        tmp_path / "flow.sh",
        """#!/bin/sh
cat > /dev/null
curl -s "$OPENAI_BASE_URL/chat/completions" -H "Authorization: Bearer $OPENAI_API_KEY" \\
  -d '{"model": "draft", "messages": [{"role": "user", "content": "hi"}]}'
""",
    )
    [episode] = played(task_of(command, tmp_path))
    [step] = episode.steps
    choice = episode.result["result"]["choices"][0]
    assert choice["message"]["content"] == step.output.text


def test_a_command_runs_in_its_directory(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    executable(tmp_path / "here" / "flow", '#!/bin/sh\necho \\"$(basename $(pwd))\\"\n')
    [episode] = played(task_of("./flow", tmp_path / "here"))
    assert episode.result["result"] == "here"


BROKEN: dict[str, tuple[str, str, str]] = {
    "exits": (
        "import sys; print('bad thing', file=sys.stderr); sys.exit(3)",
        "ProgramCrashed: the program ended with exit code 3",
        "bad thing",
    ),
    "raises": (
        "raise RuntimeError('no luck')",
        "ProgramCrashed: the program ended with exit code 1",
        "RuntimeError: no luck",
    ),
    "is killed": (
        "import os; os.kill(os.getpid(), 9)",
        "ProgramCrashed: the program was ended by SIGKILL",
        "nothing to stderr",
    ),
    "says nothing": ("pass", "ProgramRubbish: the program printed nothing", "one JSON value"),
    "prints a text": (
        "print('Answer: 7')",
        "ProgramRubbish: what the program printed is not JSON",
        "'Answer: 7",
    ),
    "prints twice": (
        "print('{}'); print('{}')",
        "ProgramRubbish: what the program printed is not JSON",
        "Extra data",
    ),
    "prints NaN": ("print('NaN')", "ProgramRubbish: what the program printed is not JSON", "NaN"),
    "prints bytes": (
        "import sys; sys.stdout.buffer.write(b'\\xff')",
        "ProgramRubbish: what the program printed is not UTF-8",
        "0xff",
    ),
    "prints without end": (
        "import sys\nwhile True: sys.stdout.write('x' * 100000)",
        "ProgramOutputTooLong: the program printed more than",
        "was ended",
    ),
    "crashes after its answer": (
        "print('{}', flush=True); raise SystemExit(4)",
        "ProgramCrashed: the program ended with exit code 4",
        "stderr",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_each_way_to_fail_is_told_apart(how: str, tmp_path: Path) -> None:
    text, begin, part = BROKEN[how]
    error = failure(script(tmp_path / "flow.py", text), tmp_path)
    assert error.startswith(begin)
    assert part in error


@pytest.mark.parametrize(
    "text",
    [
        "import time; time.sleep(60)",
        "import signal, time; signal.signal(15, lambda *a: None); time.sleep(60)",
        "import subprocess, sys; subprocess.run([sys.executable, '-c',"
        " 'import time; time.sleep(60)', MARK])",
    ],
    ids=["sleeps", "ignores signals", "waits for a child"],
)
def test_a_program_that_hangs_is_ended_with_its_children(text: str, tmp_path: Path) -> None:
    mark = f"mark-{uuid.uuid4()}"
    command = script(tmp_path / "flow.py", text.replace("MARK", repr(mark))) + f" {mark}"
    began = time.monotonic()
    error = failure(command, tmp_path, timeout=0.5)
    assert error.startswith("ProgramTimedOut: the program took longer than 0.5 seconds")
    assert time.monotonic() - began < 10
    assert no_process_of(mark)


def test_an_answer_after_the_time_does_not_count(tmp_path: Path) -> None:
    text = "import time; time.sleep(2); print('{}', flush=True)"
    assert "ProgramTimedOut" in failure(script(tmp_path / "f.py", text), tmp_path, timeout=0.3)


def test_what_a_program_leaves_running_is_ended_and_holds_nothing_up(tmp_path: Path) -> None:
    mark = f"mark-{uuid.uuid4()}"
    text = (
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)', sys.argv[1]])\n"
        "print('7', flush=True)"
    )
    began = time.monotonic()
    [episode] = played(task_of(script(tmp_path / "flow.py", text) + f" {mark}", tmp_path))
    assert episode.result["result"] == 7
    assert time.monotonic() - began < 10
    assert no_process_of(mark)


def test_time_that_nodes_take_is_not_the_program_s(tmp_path: Path) -> None:
    class Slow(FakeEngine):
        def answer(self, requests: Any) -> Any:
            time.sleep(1.0)
            return super().answer(requests)

    task = task_of(script(tmp_path / "flow.py", PROGRAM), tmp_path, timeout=0.9)
    [episode] = played(task, engine=Slow())
    assert episode.failure is None


def test_so_many_processes_at_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    text = (
        "import sys, time\n"
        f"log = open({str(log)!r}, 'a', buffering=1)\n"
        "log.write('begin\\n'); time.sleep(0.2); log.write('end\\n'); print('1')"
    )
    task = task_of(script(tmp_path / "flow.py", text), tmp_path, processes=2)
    played(task, *[Example(f"e{n}") for n in range(6)])
    running = most = 0
    for line in log.read_text().splitlines():
        running += 1 if line == "begin" else -1
        most = max(most, running)
    assert most == 2


def test_a_rollout_that_is_not_needed_any_more_ends_its_program(tmp_path: Path) -> None:
    mark = f"mark-{uuid.uuid4()}"
    text = ASK + "ask('draft', 'x')\nimport time; time.sleep(60)"
    task = task_of(script(tmp_path / "flow.py", text) + f" {mark}", tmp_path)

    async def flow(episode: Episode, example: Example) -> Any:
        import asyncio

        playing = asyncio.create_task(task.program.play(episode, {}))  # type: ignore[attr-defined]
        while not episode.steps:
            await asyncio.sleep(0.01)
        playing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await playing

    [episode] = played(FlowTask(task.nodes, flow))
    assert episode.failure is None
    assert no_process_of(mark)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("no-such-command-anywhere x", "there is no command 'no-such-command-anywhere' in PATH"),
        ("./missing", "there is no file"),
        ("./plain", "is not executable: chmod +x ./plain"),
        ("", "the program is empty"),
        ("python 'flow.py", "cannot be read as words"),
    ],
)
def test_a_command_that_cannot_be_started_is_told_at_once(
    command: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "plain").write_text("x")
    with pytest.raises(UsageError, match=said.replace("+", r"\+")):
        task_of(command, tmp_path)


def test_a_file_that_the_system_cannot_start(tmp_path: Path) -> None:
    command = executable(tmp_path / "flow", "#!/no/such/interpreter\n")
    error = failure(command, tmp_path)
    assert error.startswith("ProgramCrashed: the program ended with exit code 12")
    gone = task_of(command, tmp_path / "gone")
    [episode] = played(gone)
    assert episode.failure is not None
    assert episode.failure.error.startswith("ProgramNotStarted: ")


def test_a_worker_stays(tmp_path: Path) -> None:
    task = task_of(script(tmp_path / "flow.py", WORKER), tmp_path, persistent=True, processes=1)
    episodes = played(task, *[Example(f"e{n}", {"question": f"q{n}"}) for n in range(4)])
    results = [episode.result["result"] for episode in episodes]
    assert len({result["pid"] for result in results}) == 1
    for episode, result in zip(episodes, results, strict=True):
        [step] = episode.steps
        assert f"q{episode.example.id[1:]}" in step.prompt_text
        assert result["text"] == step.output.text
    task.program.close()  # type: ignore[attr-defined]
    assert not psutil.pid_exists(results[0]["pid"])


def test_a_worker_that_fails_is_replaced(tmp_path: Path) -> None:
    text = (
        "import json, os, sys, time\n"
        "for line in sys.stdin:\n"
        "    what = json.loads(line)['what']\n"
        "    if what == 'die': sys.exit(7)\n"
        "    if what == 'hang': time.sleep(60)\n"
        "    if what == 'late': print(1, flush=True)\n"
        "    if what == 'two': os.write(1, b'1\\n2\\n'); continue\n"
        "    print(os.getpid(), flush=True)\n"
    )
    task = task_of(
        script(tmp_path / "flow.py", text), tmp_path, persistent=True, processes=1, timeout=0.5
    )
    what = ["ok", "ok", "die", "ok", "hang", "ok", "two", "ok", "late", "ok", "ok"]
    examples = [Example(f"e{n}", {"what": each}) for n, each in enumerate(what)]
    found = Scheduler(FakeEngine(), in_flight=1).run([play(task, e) for e in examples])
    said = [e.failure.error.partition(":")[0] if e.failure else e.result["result"] for e in found]
    assert said[0] == said[1]
    assert said[2] == "ProgramCrashed"
    assert said[3] not in (said[0], "ProgramCrashed")
    assert said[4] == "ProgramTimedOut"
    assert said[5] not in (said[0], said[3])
    # Its first line may be its answer or not, and is taken for none.
    assert said[6] == "ProgramRubbish"
    assert isinstance(said[7], int)
    assert "ProgramRubbish" in said[8:10]  # one that comes later is seen by the next, at the latest
    assert isinstance(said[10], int)
    assert "exit code 7" in found[2].failure.error  # type: ignore[union-attr]
    task.program.close()  # type: ignore[attr-defined]


def test_nothing_is_left_of_all_that_ran(tmp_path: Path) -> None:
    task = task_of(script(tmp_path / "flow.py", PROGRAM), tmp_path)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(3):
        played(task)
    assert not process._RUNNING
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 12  # the server's and the watchdog's


def test_a_large_example_to_a_program_that_does_not_read(tmp_path: Path) -> None:
    task = task_of(script(tmp_path / "flow.py", "print('1')"), tmp_path)
    [episode] = played(task, Example("e", {"text": "x" * 1_000_000}))
    assert episode.result["result"] == 1
