"""Rewards: numbers and tables of them, plain and async, in episodes and over predictions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.flow.effect import EffectEnd
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.nodes import Chat
from flowtune_cli.programs.rewards import Reward, reward_name
from flowtune_cli.runtime.effects import Effects
from support.fake_engine import FakeEngine, FlowTask, run_deviate, run_play
from support.program_files import forget_modules


@pytest.fixture(autouse=True)
def own_modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    forget_modules(tmp_path)


def reward(folder: Path, text: str, name: str = "score") -> Reward:
    (folder / "rewards.py").write_text(text)
    return Reward(f"{folder / 'rewards.py'}:{name}")


def reported(made: Reward, result: Any = "x", effects: Effects | None = None) -> Episode:
    async def flow(episode: Episode, example: Example) -> None:
        await made.report(episode, {"a": 1}, result)

    return run_play(FakeEngine(), FlowTask([], flow), effects=effects)


def test_a_number_is_called_as_its_function(tmp_path: Path) -> None:
    made = reward(tmp_path, "def score(example, result): return example['a'] + len(result)")
    assert reported(made, "xy").reward_means() == {"score": 3.0}
    assert reward_name(f"{tmp_path}/rewards.py:score") == "score"


def test_a_table_and_what_is_undefined(tmp_path: Path) -> None:
    made = reward(tmp_path, "def score(example, result): return {'f1': True, 'em': None}")
    assert reported(made).reward_means() == {"f1": 1.0, "em": None}


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')", "'0.5'", "{'a': [1]}"])
def test_what_is_no_number_is_a_failure(value: str, tmp_path: Path) -> None:
    failure = reported(reward(tmp_path, f"def score(e, r): return {value}")).failure
    assert failure is not None
    assert failure.error.startswith("ValueError: reward '")
    assert "rewards.py:score is " in failure.error
    assert "or None where it is undefined" in failure.error


ASKS = """
asked = []
async def score(example, result):
    asked.append(result)
    return float(result)
"""


def test_an_async_one_is_kept_and_asked_once_for_equal_results(tmp_path: Path) -> None:
    made = reward(tmp_path, ASKS)
    asked = made.function.__globals__["asked"]

    async def flow(episode: Episode, example: Example) -> Any:
        text = await episode.call("a", messages=[{"role": "user", "content": "x"}])
        same = int(text.text) % 2
        await made.report(episode, {}, same)
        return {}

    task = FlowTask([Chat(name="a", reward="score", alternatives=4)], flow)
    trace = run_deviate(FakeEngine(), task)
    assert len(trace.deviations) > 1
    assert not trace.failures
    assert sorted(asked) == sorted(set(asked))

    effects = Effects()
    kept: list[tuple[str, ...]] = []

    class Journal:
        def end(self, key: tuple[str, ...], end: EffectEnd) -> None:
            kept.append(key)

        def deliver(self, run: Any, keys: Any) -> None: ...

    effects.journal = Journal()
    assert reported(made, 7, effects).reward_means() == {"score": 7.0}
    assert len(kept) == 1
    # A run that is resumed has the ends, and does not ask again.
    before = len(asked)
    assert reported(made, 7, Effects(dict(effects.ends))).reward_means() == {"score": 7.0}
    assert len(asked) == before


def test_over_predictions(tmp_path: Path) -> None:
    pairs = [({"a": 1}, 2), ({"a": 3}, 4)]
    plain = reward(tmp_path, "def score(example, result): return example['a'] * result")
    assert plain.of_all(pairs) == [{"score": 2.0}, {"score": 12.0}]
    forget_modules(tmp_path)
    made = reward(
        tmp_path,
        "import asyncio\nasync def score(example, result):\n"
        "    await asyncio.sleep(0)\n    return {'p': example['a'] * result}",
    )
    assert made.of_all(pairs) == [{"p": 2.0}, {"p": 12.0}]


def test_what_cannot_be_called(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be called with \(example, result\)"):
        reward(tmp_path, "def score(result): ...")


def test_arguments_that_are_swapped(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"takes \(result, example\), and is called"):
        reward(tmp_path, "def score(result, example): return float(example == result)")


CHANGING = """
    found = sorted(example["golds"]) == [1, 2]
    example["golds"].pop()
    result["text"] = result.pop("raw").lower()
    return {"right": found and result["text"] == "yes"}
"""


@pytest.mark.parametrize("word", ["def", "async def"])
def test_what_it_does_to_its_arguments_stays_with_it(word: str, tmp_path: Path) -> None:
    made = reward(tmp_path, f"{word} score(example, result):{CHANGING}")
    example = {"golds": [2, 1]}
    results = [{"raw": "Yes"}, {"raw": "yes"}]

    async def flow(episode: Episode, _: Example) -> None:
        for result in results:
            await made.report(episode, example, result)

    assert run_play(FakeEngine(), FlowTask([], flow)).reward_means() == {"right": 1.0}
    assert made.of_all([(example, result) for result in results]) == [{"right": 1.0}] * 2
    assert (example, results) == ({"golds": [2, 1]}, [{"raw": "Yes"}, {"raw": "yes"}])


def test_what_is_not_awaited(tmp_path: Path) -> None:
    made = reward(
        tmp_path,
        "async def judge(result): return 1.0\ndef score(example, result): return judge(result)",
    )
    failure = reported(made).failure
    assert failure is not None
    assert "rewards.py:score returned what was not awaited: make it 'async def'" in failure.error


def test_a_plain_one_is_kept_too_and_what_it_raises(tmp_path: Path) -> None:
    made = reward(
        tmp_path,
        "asked = []\n"
        "def score(example, result):\n"
        "    asked.append(result)\n"
        "    if result == 'bad': raise LookupError(f'for the {len(asked)}. time')\n"
        "    return {'f1': len(asked)}",
    )
    effects = Effects()
    assert reported(made, "x", effects).reward_means() == {"f1": 1.0}
    failed = reported(made, "bad", effects).failure
    assert failed is not None
    resumed = Effects(dict(effects.ends))
    assert reported(made, "x", resumed).reward_means() == {"f1": 1.0}
    again = reported(made, "bad", resumed).failure
    assert again is not None
    assert again.error == failed.error == "LookupError: for the 2. time"
    assert made.function.__globals__["asked"] == ["x", "bad"]
    assert reported(made, "other", resumed).reward_means() == {"f1": 3.0}
