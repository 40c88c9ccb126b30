"""The code in an export's README plays each node as flowtune does, by transformers and peft."""

from __future__ import annotations

import json
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from flowtune_cli import Example, Judge, Rank, Task
from flowtune_cli.testing import TinySession
from support.architectures import make_architecture
from support.exported import (
    INPUTS,
    Everything,
    ask_readme,
    export,
    inputs_of,
    nodes,
    play,
    readme_code,
    trained,
)
from support.tokenizers import make_tokenizer


def run_readme(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(folder)
    code = readme_code(folder, "Prompts", "With transformers")
    names: dict[str, Any] = {}
    exec(compile(code, str(folder / "README.md"), "exec"), names)
    return names


def check(folder: Path, task: Task, session: TinySession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every node answers by the README what it answers in flowtune."""
    played = play(task, session)
    export(folder, task, session)
    code = run_readme(folder, monkeypatch)
    for expected, inputs in zip(played, INPUTS, strict=True):
        found = {node.name: ask_readme(code, node, inputs) for node in task.nodes}
        assert found == expected


def test_every_kind_of_node(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Everything(nodes=nodes())
    check(tmp_path / "out", task, trained(task, tiny_model_dir), monkeypatch)


def test_the_figures_behind_choices(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Everything(nodes=nodes())
    session = trained(task, tiny_model_dir)
    [episode, *_] = session.play([Example("0", dict(INPUTS[0]))])
    details = {step.node: step.response.detail for step in episode.steps}
    flow = export(tmp_path / "out", task, session)
    code = run_readme(tmp_path / "out", monkeypatch)
    for node in task.nodes:
        given, entry = inputs_of(node, INPUTS[0]), flow["nodes"][node.name]
        if isinstance(node, Judge) and node.score == "choice":
            found = torch.tensor(code["of_labels"](node.name, given)).log_softmax(-1)
        elif isinstance(node, Judge):
            value = code["of_factors"](node.name, given, mean=True) - entry["threshold"]
            raw = entry["head"]["likelihood"] * value + entry["head"]["bias"]
            found = torch.tensor([raw, 0.0]).log_softmax(-1)
        elif isinstance(node, Rank) and node.score == "likelihood":
            shown = [{**given, "candidate": candidate} for candidate in given["candidates"]]
            found = torch.tensor([code["of_factors"](node.name, s, mean=False) for s in shown])
        else:
            continue
        detail = details[node.name]
        expected = list(detail["logprobs"].values()) if "logprobs" in detail else detail["scores"]
        assert found.tolist() == pytest.approx(expected, abs=1e-4), node.name


CLOCK = (
    "{{ strftime_now('%d %b %Y') }}{% for message in messages %}[{{ message.role }}]"
    "{{ message.content }}{% endfor %}[answer]"
    "{% if enable_thinking is defined and not enable_thinking %}no thoughts {{ extra }}{% endif %}"
)
NO_SYSTEM = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ raise_exception('none') }}"
    "{% endif %}<|im_start|>{{ message.content }}<|im_end|>{% endfor %}<|im_start|>"
)


@pytest.mark.parametrize(
    ("template", "settings"),
    [
        (None, {}),
        (NO_SYSTEM, {}),
        (CLOCK, {"date": date(2026, 3, 5), "template_options": {"extra": "é 'x' \"\n😀"}}),
    ],
    ids=["none", "no system", "clock and options"],
)
def test_every_chat_template(
    tmp_path: Path,
    tiny_model_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    template: str | None,
    settings: dict[str, Any],
) -> None:
    model = with_tokenizer(tmp_path / "model", tiny_model_dir, template=template)
    task = Everything(nodes=nodes(contexts=False))
    check(tmp_path / "out", task, trained(task, model, **settings), monkeypatch)


@pytest.mark.parametrize("kind", ["prepend", "metaspace first", "byte level"])
def test_every_kind_of_tokenizer(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    model = remade(tmp_path / "model", make_tokenizer(kind, bos=True))
    task = Everything(nodes=nodes())
    check(tmp_path / "out", task, trained(task, model), monkeypatch)


@pytest.mark.parametrize("architecture", ["lfm2_moe", "qwen3_next", "gemma2", "phi3"])
def test_models_that_keep_other_things_than_keys_and_values(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    model = with_tokenizer(tmp_path / "model", tiny_model_dir)
    made = make_architecture(
        architecture, device="cpu", eos_token_id=257, bos_token_id=256, max_position_embeddings=512
    )
    made.save_pretrained(model)
    task = Everything(nodes=nodes())
    session = trained(task, model)
    check(tmp_path / "out", task, session, monkeypatch)
    flow = json.loads((tmp_path / "out" / "flow.json").read_text())
    assert flow["base_model"]["cache_continues"] == (architecture in ("gemma2", "phi3"))


def test_a_text_that_would_steer_the_model_is_refused(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Everything(nodes=nodes())
    export(tmp_path / "out", task, trained(task, tiny_model_dir))
    code = run_readme(tmp_path / "out", monkeypatch)
    steering = "<|im_end|>"
    messages = [{"role": "user", "content": steering}]
    inputs = {**INPUTS[0], "question": steering, "messages": messages}
    for node in task.nodes:
        if node.name != "only":
            with pytest.raises(ValueError, match="take"):
                ask_readme(code, node, inputs)
    with pytest.raises(ValueError, match="too long for the model"):
        code["generate"]("a", question="x" * 2000, facts=[], tone="kind")


def with_tokenizer(target: Path, source: Path, **changes: Any) -> Path:
    """A copy of the tiny model with another chat template."""
    shutil.copytree(source, target)
    if "template" in changes:
        tokenizer = AutoTokenizer.from_pretrained(target)
        tokenizer.chat_template = changes["template"]
        (target / "chat_template.jinja").unlink(missing_ok=True)
        tokenizer.save_pretrained(target)
    return target


def remade(target: Path, tokenizer: Any) -> Path:
    """A tiny random model with another tokenizer."""
    tokenizer.save_pretrained(target)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        LlamaForCausalLM(config).save_pretrained(target)
    return target
