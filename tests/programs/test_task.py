"""A program as a task: what it is shown, how it is judged, what of it is stored."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.config.resolve import resolve
from flowtune_cli.config.template import toml_value
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import DataError, UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.value_digest import value_digest
from flowtune_cli.programs.find import Given, find_task
from flowtune_cli.programs.task import ProgramTask
from flowtune_cli.registry import load_registry
from support.fake_engine import FakeEngine, run_play
from support.program_files import forget_modules

FLOW = """
seen = []
async def run(example, client):
    seen.append(dict(example))
    example["more"] = example.pop("q")
    answer = await client.chat.completions.create(
        model="a", messages=[{"role": "user", "content": example["more"]}])
    return RETURNED
"""
REWARD = """
def score(example, result):
    return {"right": float(result == example["gold"]), "odd": example.get("n")}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rewards.py").write_text(REWARD)
    yield tmp_path
    forget_modules(tmp_path)


def task(folder: Path, returned: str = "answer.choices[0].message.content", **more: Any) -> Any:
    (folder / "flow.py").write_text(FLOW.replace("RETURNED", returned))
    values = {"reward": "rewards.py:score", "gold": ["gold"], "nodes.a.alternatives": 1, **more}
    overrides = [
        f"tasks.flow.{key}={toml_value(value)}" for key, value in values.items() if value != ""
    ]
    registry = load_registry()
    found = find_task(registry, "flow.py:run", config=None, environ={}, overrides=overrides)
    made = resolve(
        found.task_class,
        environ={},
        overrides=overrides,
        flags=found.flags,
        registry=registry,
    ).make_task()
    assert isinstance(made, ProgramTask)
    return made


def example(gold: Any = "0", **more: Any) -> Example:
    return Example("e", {"q": "why", "list": [1], **more}, None if gold is None else {"gold": gold})


def write(prompt: str, output: int) -> str:
    return str(output)


def played(made: Any, one: Example) -> Episode:
    episode = run_play(FakeEngine(write), made, example=one)
    assert episode.failure is None, episode.failure.traceback
    return episode


def line_digest(made_of: Example) -> str:
    return value_digest(dict(made_of.inputs))[:16]


def test_gold_is_shown_to_the_reward_alone(folder: Path) -> None:
    made = task(folder)
    one = example(n=3)
    episode = played(made, one)
    assert sys.modules["flow"].seen == [{"q": "why", "list": [1], "n": 3}]
    assert episode.reward_means() == {"right": 1.0, "odd": 3.0}
    assert episode.result == {"result": "0"}
    # What it does to its example stays with it.
    assert one.inputs == {"q": "why", "list": [1], "n": 3}
    line = {"id": "e", "result": "0", "inputs_sha256": line_digest(one)}
    assert made.prediction(one, episode.result) == line


def test_nodes_are_judged_by_the_reward_unless_they_say_otherwise(folder: Path) -> None:
    assert task(folder).node("a").reward == "score"
    assert task(folder, **{"nodes.a.reward": "right"}).node("a").reward == "right"
    assert task(folder, reward="").node("a").reward is None


def test_a_node_that_is_supervised_needs_a_target(folder: Path) -> None:
    made = task(folder, **{"nodes.a.learn": "supervised"})
    with pytest.raises(UsageError, match="node 'a' of task 'flow' learns 'supervised', and has no"):
        made.load()


def test_without_labels_nothing_is_judged(folder: Path) -> None:
    assert played(task(folder), example(gold=None)).rewards == []


def test_a_result_that_is_no_json_is_a_failure(folder: Path) -> None:
    episode = run_play(FakeEngine(write), task(folder, "{'a': {1, 2}}"), example=example())
    assert episode.failure is not None
    assert episode.failure.error.startswith("TypeError: the program's result['a'] is a set")


def test_training_says_which_labels_are_missing(folder: Path) -> None:
    (folder / "d.jsonl").write_text('{"id": "a", "q": 1, "golds": 2}\n')
    made = task(folder, data="d.jsonl")
    with pytest.raises(DataError, match="example 'a' has no labels") as caught:
        list(made.training_examples(made.examples(None, "train"), "train"))
    assert (
        "one of the fields 'gold' (tasks.flow.gold) is missing, empty or null. Did you mean"
        " 'golds'? Its other fields: q, golds"
    ) in str(caught.value)


def test_predictions_are_evaluated_where_there_are_labels(folder: Path) -> None:
    made = task(folder)
    examples = [example(), example("x", n=4), example(None), example()]
    predictions = [{"id": "e", "result": result} for result in ("0", "0", "0", "1")]
    assert made.evaluate(examples, predictions) == {
        "right": pytest.approx(1 / 3),
        "odd": 4.0,
        "examples": 3,
        "undefined": {"right": 0, "odd": 2},
    }
    assert made.left_out.as_json()
    with pytest.raises(DataError, match="the prediction of example 'e' has no 'result'"):
        made.evaluate([example()], [{"id": "e", "text": "0"}])
    with pytest.raises(UsageError, match="has no reward to evaluate by: give --reward"):
        task(folder, reward="").evaluate([], [])


def test_a_prediction_of_other_inputs_is_refused_though_ids_are_the_same(folder: Path) -> None:
    made = task(folder)
    line = made.prediction(example(), {"result": "0"})
    # Without labels then, with them now.
    assert made.prediction(example(None), {"result": "0"}) == line
    assert made.evaluate([example()], [line])["examples"] == 1
    with pytest.raises(DataError, match="example 'e' was made of other inputs than the example"):
        made.evaluate([example(n=3)], [line])


def test_without_any_labels_there_are_no_figures(folder: Path) -> None:
    with pytest.raises(DataError, match="none of the 2 examples has its labels, "):
        task(folder).evaluate([example(None)] * 2, [{"id": "e", "result": "0"}] * 2)


def test_how_it_is_shown_to_people_and_judges(folder: Path) -> None:
    made = task(folder)
    assert made.outcome_text(example(), {"result": "plain"}) == "plain"
    assert made.outcome_text(example(), {"result": {"ü": 1}}) == '{"ü": 1}'
    assert made.question_text(example()) == "why"
    assert made.question_text(example(question="who")) == "who"
    assert made.question_text(Example("e7", {"id": "x", "n": 1})) == "e7"


def test_a_program_s_table_is_no_unknown_task_to_others(folder: Path) -> None:
    registry = load_registry()
    registry.left_out = []  # else what is unknown might be a plugin's that is left out
    both = ["tasks.flow.program=x", "tasks.other={function = 'f.py:run', nodes = {a = {}}}"]
    resolve(None, environ={}, overrides=both, registry=registry)
    with pytest.raises(UsageError, match="unknown task 'third'"):
        resolve(None, environ={}, overrides=[*both, "tasks.third.gold=['x']"], registry=registry)


def test_data_comes_from_the_settings_or_the_command(folder: Path) -> None:
    (folder / "d.jsonl").write_text('{"id": "a", "q": 1, "gold": 2}\n')
    (folder / "e.jsonl").write_text('{"id": "b", "q": 1}\n')
    made = task(folder, data="d.jsonl")
    assert [(e.id, e.gold) for e in made.examples(None, "train")] == [("a", {"gold": 2})]
    assert [(e.id, e.gold) for e in made.examples(Path("e.jsonl"), "train")] == [("b", None)]
    with pytest.raises(UsageError, match="has no data: give --data FILE, or set"):
        task(folder).examples(None, "train")


def test_a_function_that_never_ends_has_a_limit_by_itself(folder: Path) -> None:
    registry = load_registry()
    found = find_task(registry, "flow.py:run", config=None, environ={})
    resolved = resolve(found.task_class, environ={}, flags=found.flags, registry=registry)
    assert resolved.settings.training.episode_timeout == 600
    found = find_task(registry, None, Given(program="python x.py"), config=None, environ={})
    resolved = resolve(found.task_class, environ={}, flags=found.flags, registry=registry)
    assert resolved.settings.training.episode_timeout == 0  # it may wait for its turn


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("python flow.py", "flow"),
        ("node -r x dist/my.agent.js --fast", "my-agent"),
        ("./agent", "agent"),
        ("uv run main", "uv"),
    ],
)
def test_a_command_is_called_after_its_file(words: str, name: str, folder: Path) -> None:
    found = find_task(load_registry(), None, Given(program=words), config=None, environ={})
    assert found.task_class.name == name
    assert found.flags[f"tasks.{name}.directory"] == str(folder)


def test_models_of_other_servers_are_passed_through(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []
    answer = {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "big",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "from afar"},
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append((self.headers["authorization"], body["model"]))
            content = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *of: Any) -> None:
            pass

    monkeypatch.setenv("BIG_KEY", "secret")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        declared = {"a": {"base_url": url, "model": "big", "api_key_env": "BIG_KEY"}}
        episode = played(task(folder, models=declared, **{"nodes.a.alternatives": ""}), example())
        server.shutdown()
    assert episode.result == {"result": "from afar"}
    assert episode.steps == []
    assert asked == [("Bearer secret", "big")]
    assert len(episode.effects) == 1
    assert "secret" not in repr(episode.effects)


def test_a_model_of_another_server_that_is_not_declared_rightly(folder: Path) -> None:
    made = task(folder, models={"b": {"base_url": "example.org"}})
    with pytest.raises(UsageError, match="base_url must begin with http"):
        run_play(FakeEngine(write), made, example=example())


def test_a_model_of_another_server_with_a_nodes_name_is_refused(folder: Path) -> None:
    made = task(folder, models={"a": {"base_url": "http://example.org"}})
    with pytest.raises(UsageError, match="'a' is a node of task 'flow' and one of its models"):
        made.load()


def test_a_chat_with_the_whole_program(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "d.jsonl").write_text('{"id": "1", "q": "why", "gold": "so"}\n')
    made = task(folder, data=str(folder / "d.jsonl"))
    chat = [{"role": "user", "content": "hello"}]
    assert made.example_from_messages(chat).inputs == {"q": "hello"}
    gold = [{"role": "user", "content": '{"q": "hello", "gold": "so"}'}]
    assert made.example_from_messages(gold).inputs == {"q": "hello"}
    assert made.text_of({"result": "as it is"}) == "as it is"
    assert made.text_of({"result": {"a": 1}}) == '{"a": 1}'
    fetched: list[Any] = []
    monkeypatch.setattr("flowtune_cli.programs.task.read_data", lambda *a: fetched.append(a) or [])
    with pytest.raises(DataError, match="the flow 'flow' is asked by a JSON object"):
        task(folder, data="hf://some/data").example_from_messages(chat)
    assert fetched == []
