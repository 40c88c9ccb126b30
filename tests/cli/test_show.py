"""``flowtune show``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from support.installed_plugins import HOPQA, Site

Run = Callable[..., Any]


def test_a_task_with_its_settings_and_nodes(run: Run) -> None:
    done = run("show", "hop-qa")
    assert done.code == 0
    assert "gate: f1" in done.out
    rows = {row[0]: row[1:] for row in done.rows}
    assert rows["training.batch_size"] == ["4"]
    assert rows["hops"] == ["int", "2", "Facts that a question needs."]
    assert rows["style"][:2] == ["'plain' | 'odd'", '"plain"']
    before_stop = done.out.partition("node [tasks.hop-qa.nodes.stop]")[0]
    assert "max_new_tokens\tint\t40\tan output is truncated at this many tokens." in before_stop
    assert 'prompt.system\tstr\t"Be brief."\tthe system message' in before_stop
    assert "prompt shows: question" in before_stop
    assert 'reward\tstr | None\t"f1"\tthe reward that judges' in before_stop
    exploration = '{name = "diverse_beam", penalty = 2.0}'
    assert f"exploration\tstr | Mapping[str, Any]\t{exploration}\t" in before_stop
    assert "optimizer\tMapping[str, Any] | str | None\t" in before_stop


def test_the_presets_of_a_task(run: Run) -> None:
    out = run("show", "hop-qa").out
    small = out.partition("\npreset small (the default with little, smaller)\n")[2]
    small, _, large = small.partition("\npreset large\n")
    assert small.startswith("  for little models\n")
    assert 'learning.optimizer\t{name = "adam", lr = 0.01}\n' in small
    assert "nodes.query.optimizer\t{lr = 0.001}\n" in small
    assert large.startswith("  for large models\n")


def test_a_node_type(run: Run) -> None:
    done = run("show", "judge")
    rows = {row[0]: row[1:] for row in done.rows}
    assert rows["labels"][:2] == ["tuple[str, ...]", '["Yes", "No"]']
    assert rows["threshold"] == [
        "float",
        "-2.0",
        "in nats per token. It stays as it is; the bias, which starts at 0, is learned.",
    ]
    assert rows["scale"] == ["float", "1.0", "its initial value."]
    assert rows["learn"][0] == "'preferences' | 'supervised' | 'nothing'"
    assert rows["name"] == ["type", "default", "help"]  # the header alone


def test_other_things(run: Run) -> None:
    assert "penalty\tfloat\t5.0\ttaken from" in run("show", "diverse_beam").out
    signature = "token_f1(answer: str, golds: str | Sequence[str]) -> float"
    assert signature in run("show", "token_f1").out
    assert "tie\tfloat\t0.02\tthe smallest gain" in run("show", "llm_judge").out
    assert "lr\tfloat\t0.0001\tlearning rate." in run("show", "adam").out
    training = run("show", "training").out
    assert "seed\tint\t42\tShuffles the examples" in training


def test_as_json(site: Site, run: Run) -> None:
    [task] = json.loads(run("show", "hop-qa", "--json").out)
    assert (task["kind"], task["name"], task["plugin"]) == ("task", "hop-qa", "hop")
    assert (task["gate"], task["splits"]) == ("f1", ["train", "dev"])
    assert task["defaults"]["training.batch_size"] == "4"
    assert [preset["name"] for preset in task["presets"]] == ["small", "large"]
    hops = {"name": "hops", "type": "int", "default": "2", "help": "Facts that a question needs."}
    assert hops in task["settings"]["options"]
    query, stop = task["nodes"]
    assert (query["name"], query["kind"], stop["kind"]) == ("query", "generate", "judge")
    assert query["shows"] == {"prompt": ["question"]}
    assert {"name": "max_new_tokens", "default": "40"}.items() <= next(
        option for option in query["options"] if option["name"] == "max_new_tokens"
    ).items()
    [section] = json.loads(run("show", "training", "--json").out)
    assert section["kind"] == "section"
    assert "seed" in [option["name"] for option in section["options"]]
    [reward] = json.loads(run("show", "token_f1", "--json").out)
    assert reward["signature"].startswith("token_f1(answer: str")
    [strategy] = json.loads(run("show", "multi_sample", "--json").out)
    assert strategy["kind"] == "exploration"
    assert strategy["help"]
    site.install(
        "needs",
        HOPQA.replace("hops: int = Field(2,", "hops: int = Field(")
        .replace('"hop-qa"', '"needs"')
        .replace('"plain"\n    nodes', '"other"\n    nodes'),
    )
    [needs] = json.loads(run("show", "needs", "--json").out)
    assert (needs["nodes"], needs["nodes_need"]) == ([], ["hops"])


def test_an_unknown_name(site: Site, run: Run) -> None:
    site.install("broken", "1 / 0")
    done = run("show", "hop-qq")
    assert done.code == 2
    assert "unknown name 'hop-qq'. Did you mean 'hop-qa'?" in done.err
    assert "plugin 'broken' (broken-dist 1.0) has a problem" in done.err
    assert "Did you mean 'cocob'" in run("show", "cocobo").err


def test_a_contested_name(site: Site, run: Run) -> None:
    site.install("rival", HOPQA.replace('"plain"', '"other"'))
    done = run("show", "hop-qa")
    assert done.code == 2
    assert "'hop' (hop-dist 1.0) and 'rival' (rival-dist 1.0)" in done.err
    assert run("show", "other").code == 0


def test_a_task_whose_settings_must_be_given(site: Site, run: Run) -> None:
    source = HOPQA.replace("hops: int = Field(2, ", "hops: int = Field(")
    site.install("needy", source.replace("hop-qa", "needy").replace('"plain"\n', '"other"\n'))
    done = run("show", "needy")
    assert done.code == 0
    assert "hops\tint\t\tFacts" in done.out
    assert "no default: hops" in done.err
