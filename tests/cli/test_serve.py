"""``flowtune serve``: a trained flow on a tiny model, in this process and as a server."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from flowtune_cli.cli import serve as serve_module
from flowtune_cli.cli.player import load_player
from flowtune_cli.cli.serve import Served as Loaded
from flowtune_cli.engine.running_batch import RunningBatch
from flowtune_cli.loaded_flow import forgetting
from flowtune_cli.registry import load_registry
from flowtune_cli.testing.tiny_model import randomize
from support.installed_plugins import Site
from support.processes import _PATHS
from support.program_files import forget_modules
from support.served import Served

Run = Callable[..., Any]
PIPELINE = Path(__file__).parents[2] / "examples" / "pipeline"
NODES = """
[tasks.pipeline]
function = "pipeline.py:run"
data = "orders.jsonl"
reward = "rewards.py:score"
gold = ["must_say"]
[tasks.pipeline.nodes.extract]
max_new_tokens = 30
[tasks.pipeline.nodes.draft]
max_new_tokens = 10
[tasks.pipeline.nodes.choose]
max_new_tokens = 5
[training]
batch_size = 2
[adapter]
rank = 2
"""


@pytest.fixture
def trained(letters: Site, run: Run) -> str:
    assert run("train", "letters", "--name", "a", "--limit", "4").code == 0
    return "a"


@pytest.fixture
def loaded(trained: str) -> Iterator[Loaded]:
    session = load_player(load_registry(), None, trained, None, None).set_up()
    randomize(session.adapters)  # so that what a node says depends on its adapter
    with Loaded(session) as made:
        yield made


def reached(loaded: Loaded) -> Served:
    return Served(loaded.app, loaded.engine)


def message(content: str) -> list[Any]:
    return [{"role": "user", "content": content}]


def test_nodes_answer_as_they_do_within_the_flow(loaded: Loaded) -> None:
    flow = loaded.flow.submit(loaded.flow.task.example_from({"question": "q 1"}), 0, steps)
    expected = flow.result(60)
    assert [node for node, _, _ in expected] == ["draft", "check", "write"]

    async def program(client: Any) -> Any:
        found = []
        for node, inputs, text in expected:
            got = await client.chat.completions.create(
                model=node, messages=message(json.dumps(inputs))
            )
            chunks = await client.chat.completions.create(
                model=node, messages=message(json.dumps(inputs)), stream=True
            )
            pieces = [c.choices[0].delta.content or "" async for c in chunks]
            found.append((got.choices[0].message.content, "".join(pieces)))
            assert got.usage.prompt_tokens > 0
            assert text == got.choices[0].message.content
        whole = await client.chat.completions.create(model="flow:letters", messages=message("q 1"))
        return found, json.loads(whole.choices[0].message.content)

    found, whole = reached(loaded).run(program)
    assert found == [(text, text) for _, _, text in expected]
    assert len({text for text, _ in found}) == 3
    assert whole == {"text": expected[2][2], "good": expected[1][2]}


def steps(episode: Any) -> Any:
    """The calls of an episode of letters: the node, its inputs and its answer."""
    draft, check, write = (step.output.value for step in episode.steps)
    given = [{"question": "q 1"}, {"draft": draft}, {"draft": draft, "good": check}]
    nodes = [step.node for step in episode.steps]
    return list(zip(nodes, given, [draft, check, write], strict=True))


def test_it_answers_as_play_does(trained: str, run: Run) -> None:
    given = json.dumps({"question": "train 7"})
    played = json.loads(run("play", "letters", "--run", "a", "--input", given, "--json").out)
    session = load_player(load_registry(), None, trained, None, None).set_up()
    with Loaded(session) as made:

        async def program(client: Any) -> Any:
            got = await client.chat.completions.create(
                model="flow:letters", messages=message("train 7")
            )
            return json.loads(got.choices[0].message.content)

        assert reached(made).run(program) == played["result"]


def test_requests_of_connections_are_decoded_together(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, rows = {}, []
    step = RunningBatch.step

    def counted(batch: RunningBatch) -> Any:
        rows.append(len(batch.outputs))
        return step(batch)

    async def one(client: Any, number: int) -> str:
        got = await client.chat.completions.create(model="draft", messages=message(f"q {number}"))
        return str(got.choices[0].message.content)

    async def together(client: Any) -> Any:
        clients = [reached(loaded).client() for _ in range(8)]
        found = await asyncio.gather(*[one(c, n) for n, c in enumerate(clients)])
        for each in clients:
            await each.close()
        return dict(enumerate(found))

    for number in range(8):
        alone[number] = reached(loaded).run(lambda client, n=number: one(client, n))
    session_engine(loaded).forget()
    monkeypatch.setattr(RunningBatch, "step", counted)
    assert reached(loaded).run(together) == alone
    assert max(rows) > 3


def session_engine(loaded: Loaded) -> Any:
    """The engine below all that is around it."""
    return loaded.engine._engine.engine  # type: ignore[attr-defined]


def test_what_is_remembered_is_bounded(trained: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "flowtune_cli.loaded_flow.forgetting", lambda engine: forgetting(engine, 10)
    )
    session = load_player(load_registry(), None, trained, None, None).set_up()
    most = []
    with Loaded(session) as made:

        async def program(client: Any) -> None:
            for number in range(12):
                for model in ("draft", "check", "flow:letters"):
                    await client.chat.completions.create(
                        model=model, messages=message(f"x{number}")
                    )
                    most.append(session.engine.answers_held)
            assert not made.engine._open

        reached(made).run(program)
    # It may forget only before a step, and a request of a step remembers a few.
    assert 10 <= max(most) < 20


def test_a_prompt_that_is_too_long_is_an_error_of_its_own(loaded: Loaded) -> None:
    async def program(client: Any) -> Any:
        async def ask(model: str, content: str) -> Any:
            try:
                got = await client.chat.completions.create(model=model, messages=message(content))
            except openai.APIStatusError as error:
                return error.status_code, error.message
            return got.choices[0].message.content

        asked = [("draft", "a"), ("draft", "x" * 2000), ("flow:letters", "y" * 2000)]
        return await asyncio.gather(*[ask(*each) for each in asked])

    good, *errors = reached(loaded).run(program)
    assert isinstance(good, str)
    for status, text in errors:
        assert status == 400
        assert "leaves no room in the context" in text
    assert reached(loaded).get("/health").status_code == 200


# As a server of its own


@pytest.fixture
def start(site: Site) -> Iterator[Callable[..., Any]]:
    started = []

    def make(*arguments: str, **environ: str) -> Any:
        command = [sys.executable, "-m", "flowtune_cli.cli.main", "serve", *arguments]
        command[1:3] = [
            "-c",
            "import sys; from flowtune_cli.cli.main import main; sys.exit(main())",
        ]
        paths = [*map(str, _PATHS), *sys.path]
        process = subprocess.Popen(
            [*command, "--port", "0"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        name, _, url = process.stdout.readline().strip().partition("=")
        if not url:
            raise AssertionError(process.communicate(timeout=20)[1])
        assert name == "OPENAI_BASE_URL"
        return process, url

    yield make
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def pipeline(letters: Site, run: Run, tmp_path: Path) -> Iterator[str]:
    """A run of the example program, in the current directory."""
    for name in ("pipeline.py", "rewards.py", "orders.jsonl"):
        shutil.copy(PIPELINE / name, tmp_path)
    (tmp_path / "flowtune.toml").write_text(NODES)
    done = run("train", "pipeline", "--name", "p", "--limit", "2")
    assert done.code == 0, done.err
    yield "p"
    forget_modules(tmp_path)


def test_a_server_runs_the_trained_program_and_stops(pipeline: str, start: Any, run: Run) -> None:
    process, url = start(pipeline, FLOWTUNE_API_KEY="a-key")
    with openai.OpenAI(base_url=url, api_key="a-key") as client:
        names = [model.id for model in client.models.list()]
        assert names == ["extract", "draft", "choose", "flow:pipeline"]
        asked: Any = {"model": "draft", "messages": message("hello")}
        whole = client.chat.completions.create(**asked).choices[0].message.content
        chunks = list(client.chat.completions.create(**asked, stream=True))
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole
        example = {"question": "Where is my order A17?"}
        flow = client.chat.completions.create(
            model="flow:pipeline", messages=message(json.dumps(example))
        )
        environ = {**os.environ, "OPENAI_BASE_URL": url, "OPENAI_API_KEY": "a-key"}
        unchanged = subprocess.run(
            [sys.executable, "pipeline.py"],
            input=json.dumps(example),
            env=environ,
            capture_output=True,
            text=True,
            check=True,
        )
    content = flow.choices[0].message.content
    assert content is not None
    assert json.loads(unchanged.stdout) == json.loads(content)
    played = run("play", "--run", "p", "--input", json.dumps(example), "--json")
    assert json.loads(played.out)["result"]["result"] == json.loads(content)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=url, api_key="another").models.list()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out == ""
    assert "model flow:pipeline" in err
    assert "stopped" in err
    assert "a-key" not in err


def test_what_runs_is_finished_when_the_server_is_stopped(trained: str, start: Any) -> None:
    tokens = "tasks.letters.nodes.draft.max_new_tokens=300"
    process, url = start(trained, "--set", tokens)
    with httpx2.Client(timeout=60) as client:
        asked = {"model": "draft", "messages": message("hello"), "stream": True}
        with client.stream("POST", f"{url}/chat/completions", json=asked) as response:
            lines = response.iter_lines()
            assert '"role": "assistant"' in next(lines)
            process.send_signal(signal.SIGINT)
            rest = list(lines)
    assert rest[-2] == "data: [DONE]"
    process.communicate(timeout=60)
    assert process.returncode == 130


def test_what_is_refused(trained: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("serve", "a", "--host", "0.0.0.0")
    assert done.code == 2
    assert "FLOWTUNE_API_KEY" in done.err
    assert run("serve").code == 2
    assert "unknown run 'b'" in run("serve", "b").err
    assert "has no checkpoint '3'" in run("serve", "a@3").err
    monkeypatch.setenv(serve_module.KEY, " ")
    done = run("serve", "a")
    assert (done.code, "is to hold a key" in done.err) == (2, True)
    monkeypatch.setenv(serve_module.KEY, "a-key")
    done = run("serve", "a", "--host", "no.such.host.invalid")
    assert done.code == 1
    assert "the host no.such.host.invalid cannot be found" in done.err


def test_a_port_that_is_taken(trained: str, run: Run, start: Any) -> None:
    _, url = start(trained)
    port = url.rpartition(":")[2].partition("/")[0]
    done = run("serve", "a", "--port", port)
    assert done.code == 1
    assert f"port {port} of 127.0.0.1 cannot be had" in done.err
