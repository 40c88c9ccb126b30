"""flowtune_cli.testing: its engine follows scripts, and its checks notice what is wrong."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli import (
    DecodeRequest,
    Decoding,
    Episode,
    Example,
    Generate,
    Judge,
    Outcome,
    Preset,
    Rank,
    ScoreRequest,
    Task,
    Template,
    UsageError,
)
from flowtune_cli.testing import (
    ScriptedEngine,
    TinySession,
    assert_replays,
    check_task,
    deviate,
    make_tiny_model,
    play,
    play_with_rollouts,
    train,
    training_data,
)
from support.markdown_blocks import REPOSITORY

PLAIN = Template("{question}", chat=False)
PROMPT = PLAIN.render({"question": "why so long"}, node="test")


class Answering(Task):
    """A correct task: write an answer, and judge it. Its faulty variants follow."""

    name = "answering"
    gate = "right"

    @classmethod
    def default_nodes(cls, settings: Any) -> list[Any]:
        return [
            Generate(name="answer", prompt=PLAIN, reward="right", alternatives=2),
            Judge(name="check", prompt=Template("{answer}?", chat=False), learn="supervised"),
        ]

    def examples(self, source: Path | None, split: str) -> Iterable[Example]:
        return [Example(f"{split}-{n}", {"question": f"question {n}"}, gold="1") for n in range(4)]

    async def run(self, episode: Episode, example: Example) -> Mapping[str, Any]:
        answer = await episode.call("answer", question=example.question)
        checked = await episode.call("check", answer=answer)
        episode.target("check", answer == example.gold)
        episode.reward("right", float(answer == example.gold))
        return {"answer": answer, "checked": checked}


EXAMPLE = Example("e", {"question": "what"}, gold="B")


# The scripted engine


def decode(engine: ScriptedEngine, **more: Any) -> list[str]:
    request = DecodeRequest(**{"adapter": "a", "prompt": PROMPT, "max_new_tokens": 9, **more})
    [answer] = engine.answer([request])
    return [generation.text for generation in answer.generations]  # type: ignore[union-attr]


def test_functions_are_called_with_the_node_and_the_prompt() -> None:
    engine = ScriptedEngine(
        write=lambda node, prompt, output: f"{node}|{prompt}|{output}",
        score=lambda node, prompt, completion: -float(len(node + prompt + completion)),
    )
    assert decode(engine, decoding=Decoding(samples=1)) == ["a|why so long|0", "a|why so long|1"]
    [scored] = engine.answer([ScoreRequest(None, ((PROMPT, ("yes", "no")),))])
    [(yes, no)] = scored.likelihoods  # type: ignore[union-attr]
    assert (yes.logprob, no.logprob) == (-14.0, -13.0)


def test_mappings_answer_by_node() -> None:
    engine = ScriptedEngine(write={"a": ["x", "y"], "b": "z"}, score={"c": {"Yes": -1.0}})
    assert decode(engine, decoding=Decoding(groups=5)) == ["x", "y"]
    assert decode(engine, adapter="b", decoding=Decoding(groups=5)) == ["z"]
    [scored] = engine.answer([ScoreRequest("c", ((PROMPT, (" Yes",)),))])
    assert scored.likelihoods[0][0].logprob == -1.0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (DecodeRequest("other", PROMPT, 9), "no texts for node 'other'; it has: a, empty"),
        (DecodeRequest(None, PROMPT, 9), "no texts for the base model"),
        (DecodeRequest("empty", PROMPT, 9), "writes nothing for node 'empty' after: 'why so long'"),
        (ScoreRequest("other", ((PROMPT, ("Yes",)),)), "no scores for node 'other'"),
        (ScoreRequest("c", ((PROMPT, ("No",)),)), "no score of 'No' for node 'c'; it has: 'Yes'"),
    ],
)
def test_what_is_not_in_a_script_is_an_error(request_: Any, message: str) -> None:
    engine = ScriptedEngine(write={"a": "x", "empty": []}, score={"c": {"Yes": -1.0}})
    with pytest.raises(UsageError, match=message):
        engine.answer([request_])


def test_texts_end_at_stop_strings_and_limits() -> None:
    engine = ScriptedEngine(write={"a": "one two\nthree"})
    assert decode(engine, stop=("\n",)) == ["one two"]
    [answer] = engine.answer([DecodeRequest("a", PROMPT, 1, stop=("\n",))])
    [generation] = answer.generations  # type: ignore[union-attr]
    assert (generation.text, generation.truncated, len(generation.tokens)) == ("one", True, 1)


def test_requests_are_recorded() -> None:
    engine = ScriptedEngine()
    first, second = DecodeRequest("a", PROMPT, 9), ScoreRequest("b", ((PROMPT, ("x",)),))
    engine.answer([first, second])
    engine.answer([second])
    assert engine.batches == [[first, second], [second]]
    assert engine.requests == [first, second, second]


def test_a_head_is_reported_to_its_node_alone() -> None:
    node = Judge(name="j", prompt=PLAIN, score="likelihood", text="{question}", reward="r")

    class Judging(Answering):
        @classmethod
        def default_nodes(cls, settings: Any) -> list[Any]:
            return [node]

        async def run(self, episode: Episode, example: Example) -> Mapping[str, Any]:
            return {"label": await episode.call("j", question="q")}

    def label(**heads: Mapping[str, float]) -> str:
        engine = ScriptedEngine(score=lambda *_: 0.0, head=heads)
        return play(Judging(), engine, EXAMPLE).result["label"]

    assert label() == label(other={"bias": -9.0}) == "Yes"
    assert label(j={"bias": -9.0}) == "No"


# Playing


def test_play_deviate_and_training_data() -> None:
    engine = ScriptedEngine(
        write={"answer": ["A", "B", "C"]}, score={"check": {"Yes": -1.0, "No": -2.0}}
    )
    task = Answering()
    assert play(task, engine, EXAMPLE).result == {"answer": "A", "checked": "Yes"}
    trace = deviate(task, engine, EXAMPLE)
    assert [d.outcome for d in trace.deviations] == [Outcome.ALTERNATIVE_BETTER, Outcome.TIE]
    assert {name: len(data) for name, data in training_data(task, trace).items()} == {
        "answer": 1,
        "check": 1,
    }


def test_rollouts_are_those_of_the_wanted_nodes() -> None:
    engine = ScriptedEngine(write={"answer": ["A", "B", "C"]})
    _, rollouts = play_with_rollouts(Answering(), engine, EXAMPLE, ["answer"])
    assert [rollout["result"]["answer"] for rollout in rollouts] == ["B", "C"]


def test_evaluators_and_strategies_are_found_by_their_names() -> None:
    task = Answering()
    task.node("answer").evaluator = "llm_judge"
    trace = deviate(task, ScriptedEngine(), EXAMPLE)
    assert trace.deviations
    task.node("answer").exploration = "multi_sampel"
    with pytest.raises(UsageError, match="Did you mean 'multi_sample'"):
        deviate(task, ScriptedEngine(), EXAMPLE)


# Replay


def test_a_flow_that_replays() -> None:
    assert_replays(Answering(), Answering().examples(None, "train"))


def test_a_clock_in_a_prompt_is_noticed_and_both_prompts_are_shown() -> None:
    class Clock(Answering):
        async def run(self, episode: Episode, example: Example) -> Mapping[str, Any]:
            return {"answer": await episode.call("answer", question=time.perf_counter_ns())}

    with pytest.raises(AssertionError, match="another prompt") as raised:
        assert_replays(Clock(), [EXAMPLE])
    text = str(raised.value)
    assert "task 'answering', example 'e'" in text
    before, now = text.split("--- recorded prompt ---\n")[1].split("\n--- prompt now ---\n")
    assert int(before) < int(now)


def test_a_clock_in_an_effect_is_fine() -> None:
    class Clock(Answering):
        async def run(self, episode: Episode, example: Example) -> Mapping[str, Any]:
            now = await episode.effect(time.perf_counter_ns)
            return {"answer": await episode.call("answer", question=now)}

    assert_replays(Clock(), [EXAMPLE])


def test_state_that_outlives_an_episode_is_noticed() -> None:
    class Remembering(Answering):
        calls = 0

        async def run(self, episode: Episode, example: Example) -> Mapping[str, Any]:
            self.calls += 1
            for _ in range(self.calls):
                answer = await episode.call("answer", question="again")
            return {"answer": answer}

    with pytest.raises(AssertionError, match="ended after 1 calls before, and calls node 'answer'"):
        assert_replays(Remembering(), [EXAMPLE])


def test_a_flow_that_differs_only_in_rollouts_is_noticed() -> None:
    class Branching(Answering):
        async def run(self, episode: Episode, example: Example) -> Mapping[str, Any]:
            first = await episode.call("answer", question="one")
            shown = time.perf_counter_ns() if episode.is_rollout else 0
            second = await episode.call("answer", question=f"{first} {shown}")
            return {"answer": second}

    with pytest.raises(AssertionError, match="another prompt"):
        assert_replays(Branching(), [EXAMPLE])


@pytest.mark.parametrize("what", ["result", "rewards", "targets"])
def test_chance_in_what_is_reported_is_noticed(what: str) -> None:
    class Chance(Answering):
        async def run(self, episode: Episode, example: Example) -> Mapping[str, Any]:
            answer = await episode.call("answer", question="one")
            chance = time.perf_counter_ns()
            if what == "rewards":
                episode.reward("right", chance)
            if what == "targets":
                episode.target("answer", str(chance))
            return {"answer": chance if what == "result" else answer}

    with pytest.raises(AssertionError, match=f"has other {what}"):
        assert_replays(Chance(), [EXAMPLE])


def test_a_flow_that_fails_or_is_not_played_proves_nothing() -> None:
    class Failing(Answering):
        async def run(self, episode: Episode, example: Example) -> Mapping[str, Any]:
            raise ValueError("no such thing")

    with pytest.raises(AssertionError, match=r"(?s)pass an engine .*no such thing"):
        assert_replays(Failing(), [EXAMPLE])
    with pytest.raises(AssertionError, match="no examples"):
        assert_replays(Answering(), [])


# Checks


def problems(task: Task, **more: Any) -> str:
    with pytest.raises(AssertionError) as raised:
        check_task(task, **more)
    return str(raised.value)


def test_a_complete_task() -> None:
    check_task(Answering())


def test_a_misspelt_reward_is_noticed() -> None:
    task = Answering()
    task.node("answer").reward = "rigth"
    assert "node 'answer' is judged by a reward" in problems(task)
    assert "Did you mean 'right'?" in problems(task)


def test_a_misspelt_gate_is_noticed() -> None:
    class Gated(Answering):
        gate = "rihgt"

    assert "gate names a reward that 6 episodes did not report" in problems(Gated())
    assert "Did you mean 'right'?" in problems(Gated())


def with_examples(*examples: Example) -> Task:
    class Given(Answering):
        splits = ("train",)

        def examples(self, source: Path | None, split: str) -> Iterable[Example]:
            return examples

    return Given()


def test_a_duplicate_id_is_noticed_beyond_what_is_played() -> None:
    task = with_examples(*(Example(f"{n % 5}", {"question": "q"}, "1") for n in range(6)))
    assert "split 'train' has two examples with the id '0'" in problems(task, plays=1)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (("a", {"question": "q"}, None), "example 'a' has no gold (1 of 1 have none)"),
        (("", {"question": "q"}, "1"), "an example's id must be a text; got ''"),
        ((7, {"question": "q"}, "1"), "an example's id must be a text; got 7"),
        (("a", ["q"], "1"), "inputs must be a mapping; got ['q']"),
        (("a", {"topic": "q"}, "1"), "example has no input 'question'; it has: topic"),
    ],
)
def test_wrong_examples_are_noticed(example: Any, message: str) -> None:
    assert message in problems(with_examples(Example(*example)))


def test_examples_that_differ_when_read_again_are_noticed() -> None:
    class Changing(Answering):
        def examples(self, source: Path | None, split: str) -> Iterable[Example]:
            return [Example(str(time.perf_counter_ns()), {"question": "q"}, "1")]

    assert "other examples, or another order" in problems(Changing())
    assert "split 'train' has no examples" in problems(with_examples())

    class Timed(Answering):
        def examples(self, source: Path | None, split: str) -> Iterable[Example]:
            return [Example("a", {"question": "q", "at": time.perf_counter_ns()}, "1")]

    told = problems(Timed())
    assert "split 'train' when it is read again: example 'a' has other inputs now" in told
    opened = with_examples(Example("a", {"question": "q", "file": (line for line in "ab")}, "1"))
    assert "input 'file' of example 'a' has no digest" in problems(opened)

    class Unreadable(Answering):
        def examples(self, source: Path | None, split: str) -> Iterable[Example]:
            raise OSError("no such file")

    assert "'train' cannot be read: OSError: no such file" in problems(Unreadable())


def flow(body: Any) -> Task:
    """A task whose flow is ``body(episode)``; its node ``check`` is removed."""

    class Flow(Answering):
        gate = None

        @classmethod
        def default_nodes(cls, settings: Any) -> list[Any]:
            return [Generate(name="answer", prompt=PLAIN, reward="right")]

        async def run(self, episode: Episode, example: Example) -> Any:
            return await body(episode)

    return Flow()


async def returns(episode: Episode, result: Any) -> Any:
    await episode.call("answer", question="q")
    episode.reward("right", 1.0)
    return result


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"answer": {1}}, "the result is not JSON: Object of type set"),
        ({"answer": float("nan")}, "the result is not JSON"),
        (["answer"], "run must return a mapping; it returned ['answer']"),
        ({"id": "mine"}, "the prediction's 'id' is 'mine'; by prediction_id it is 'train-0'"),
    ],
)
def test_wrong_results_are_noticed(result: Any, message: str) -> None:
    assert message in problems(flow(lambda episode: returns(episode, result)))
    check_task(flow(lambda episode: returns(episode, {"answer": "fine"})))


def test_a_prediction_without_an_id_is_noticed() -> None:
    class Nameless(Answering):
        def prediction(self, example: Example, result: Mapping[str, Any]) -> Mapping[str, Any]:
            return result

    assert "the prediction's 'id' is missing" in problems(Nameless())


def test_a_field_that_the_flow_does_not_give_is_noticed() -> None:
    async def body(episode: Episode) -> Any:
        return {"answer": await episode.call("answer", quesiton="q")}

    assert "asks for the field '{question}', which its call does not give" in problems(flow(body))


def test_a_call_of_a_node_that_is_not_there_is_noticed() -> None:
    async def body(episode: Episode) -> Any:
        return {"answer": await episode.call("answr", question="q")}

    assert "unknown node 'answr'. Did you mean 'answer'?" in problems(flow(body))


def test_nodes_that_cannot_learn_are_noticed() -> None:
    class Idle(Answering):
        @classmethod
        def default_nodes(cls, settings: Any) -> list[Any]:
            return [
                Generate(name="answer", prompt=PLAIN),
                Judge(name="check", prompt=Template("{answer}", chat=False), learn="supervised"),
                Rank(name="never", prompt=Template("{candidate}"), learn="nothing"),
            ]

        async def run(self, episode: Episode, example: Example) -> Mapping[str, Any]:
            answer = await episode.call("answer", question="q")
            await episode.call("check", answer=answer)
            episode.reward("right", 1.0)
            return {"answer": answer}

    found = problems(Idle())
    assert "node 'answer' learns from preferences, and has neither reward nor evaluator" in found
    assert "node 'check' is supervised, and 6 episodes reported no target for it" in found
    assert "node 'never' was not called in 6 episodes" in found


def test_targets_that_a_node_cannot_learn_are_noticed() -> None:
    class Mistaught(Answering):
        async def run(self, episode: Episode, example: Example) -> Mapping[str, Any]:
            result = await super().run(episode, example)
            episode.target("check", "Maybe")
            return result

    assert "a target cannot be learned from: UsageError: example" in problems(Mistaught())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("exploration", "divers_beam", "node 'answer': unknown exploration 'divers_beam'"),
        ("exploration", {"name": "multi_sample", "heat": 2}, "node 'answer': "),
        ("evaluator", "llm_jugde", "node 'answer': unknown evaluator 'llm_jugde'"),
    ],
)
def test_names_that_nothing_has_are_noticed(field: str, value: Any, message: str) -> None:
    task = Answering()
    setattr(task.node("answer"), field, value)
    assert message in problems(task)


def test_what_registration_would_refuse_is_noticed() -> None:
    class Unnamed(Answering):
        name = "two words"

    assert "needs a name of letters and digits" in problems(Unnamed())


def test_settings_that_are_not_there_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Defaulted(Answering):
        defaults = {"training.batch_sise": 2}  # noqa: RUF012

    class Bundled(Answering):
        presets = (Preset("tiny", "for tests", {"training.batch_size": "many"}),)

    assert "its defaults: " in problems(Defaulted())
    assert "'training.batch_sise'" in problems(Defaulted())
    assert "preset 'tiny': " in problems(Bundled())

    monkeypatch.chdir(tmp_path)
    Path("flowtune.toml").write_text("[training]\nnothing = 1\n")
    check_task(Answering())


def test_a_flow_that_fails_is_shown_with_its_traceback() -> None:
    async def body(episode: Episode) -> Any:
        raise KeyError("lost")

    assert "in body" in problems(flow(body))


# The tiny model


def test_the_tiny_model_is_the_same_every_time(tmp_path: Path, tiny_model_dir: Path) -> None:
    again = make_tiny_model(tmp_path / "new" / "model")
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (again / file).read_bytes() == (tiny_model_dir / file).read_bytes()


def test_a_session_plays_deviates_and_records(tiny_model_dir: Path) -> None:
    session = TinySession(Answering(), tiny_model_dir, random_adapters=True)
    examples = list(session.task.examples(None, "train"))[:2]
    episodes = session.play(examples)
    assert [episode.example for episode in episodes] == examples
    assert {request.adapter for request in session.requests} == {"answer", "check"}
    traces = session.deviate(examples)
    assert [trace.episode.result for trace in traces] == [e.result for e in episodes]
    assert all(trace.deviations for trace in traces)
    step = episodes[0].steps[1]
    for option in step.response.options:
        assert option.score is not None
        [term] = option.score.terms
        assert isinstance(term.completion, str)
    scored = {
        option.value: session.log_likelihood("check", option.score.terms[0].prompt, option.value)
        for option in step.response.options
        if option.score is not None
    }
    odds = step.response.detail["logprobs"]
    assert scored["Yes"] - scored["No"] == pytest.approx(odds["Yes"] - odds["No"], abs=1e-4)
    term = episodes[0].steps[0].output.score.terms[0]  # type: ignore[union-attr]
    assert isinstance(term.completion, tuple)
    decoded = session.decode(term.completion)
    assert decoded.replace("<|im_start|>", "").startswith(episodes[0].result["answer"])


def test_a_model_answers_the_same_in_a_thread_while_tools_go_on(tiny_model_dir: Path) -> None:
    class WithTool(Answering):
        async def run(self, episode: Episode, example: Example) -> Any:
            ticking = asyncio.create_task(asyncio.sleep(0.2))
            result = await super().run(episode, example)
            await ticking
            return result

    def steps(task: Task) -> list[Any]:
        session = TinySession(task, tiny_model_dir, random_adapters=True)
        return [e.steps for e in session.play(list(task.examples(None, "train"))[:2])]

    assert steps(WithTool()) == steps(Answering())


def test_random_adapters_differ_from_the_base_model(tiny_model_dir: Path) -> None:
    untrained = TinySession(Answering(), tiny_model_dir)
    session = TinySession(Answering(), tiny_model_dir, random_adapters=True)
    base = session.log_likelihood(None, PROMPT, "x")
    assert untrained.log_likelihood("answer", PROMPT, "x") == pytest.approx(base, abs=1e-5)
    assert abs(session.log_likelihood("answer", PROMPT, "x") - base) > 1e-3


def test_training_is_real(tiny_model_dir: Path, tmp_path: Path) -> None:
    task = Answering()
    examples = list(task.examples(None, "train"))
    settings = {"training": {"batch_size": 2}, "adapter": {"rank": 2}}
    metrics = train(task, examples, tiny_model_dir, tmp_path / "run", settings)
    assert len(metrics) == 2
    assert metrics[0]["node/check/data"] == 2
    assert metrics[0]["node/check/gradient_norm"] > 0
    with pytest.raises(UsageError, match="run"):
        train(task, examples, tiny_model_dir, tmp_path / "run", settings)


def test_the_tests_of_plugins_need_nothing_else_of_flowtune() -> None:
    """But for those that look at settings."""
    imported: dict[str, set[str]] = {}
    for folder in ("plugins/*/tests", "tests/*_plugin"):
        for file in REPOSITORY.glob(f"{folder}/**/*.py"):
            modules = re.findall(
                r"^(?:from|import) (flowtune_cli\S*|support\S*)", file.read_text(), re.MULTILINE
            )
            imported.setdefault(str(file.relative_to(REPOSITORY)), set()).update(modules)
    assert len(imported) > 20
    others = {
        file: modules - {"flowtune_cli", "flowtune_cli.testing"}
        for file, modules in imported.items()
    }
    assert {file: modules for file, modules in others.items() if modules} == {
        "plugins/musique/tests/test_presets.py": {
            "flowtune_cli.config.resolve",
            "flowtune_cli.registry",
        },
        "plugins/smollm2/tests/test_plugin.py": {
            "flowtune_cli.config.settings",
            "flowtune_cli.registry",
        },
    }


def test_importing_it_takes_no_heavy_library() -> None:
    code = "import sys, flowtune_cli, flowtune_cli.testing; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "textual", "peft", "pydantic", "rich", "typer", "pytest"}
    assert not heavy & {*done.stdout.split()}
