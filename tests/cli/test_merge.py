"""``flowtune merge``: a whole model that answers as the node with its adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from support.exported import readme_code
from support.installed_plugins import Site

Run = Callable[..., Any]
PROMPT = """{user = "Draft", frozen_prefix = "On {question}. ", chat = false}"""


@pytest.fixture
def trained(letters: Site, run: Run) -> str:
    """A run whose adapters were made to matter."""
    assert run("train", "letters", "--limit", "2").code == 0
    for path in sorted(Path("runs/letters-001/checkpoints").glob("*/adapters/*/*.safetensors")):
        generator = torch.Generator().manual_seed(1)
        state = {
            name: torch.empty(value.shape).normal_(0, 0.1, generator=generator)
            for name, value in load_file(path).items()
        }
        save_file(state, path, metadata={"format": "pt"})
    return "letters-001"


def played(run: Run, node: str, *more: str) -> dict[str, Any]:
    """The first step of a node in one example."""
    done = run("play", "letters", *more, "--json")
    assert done.code == 0, done.err
    steps = json.loads(done.out)["steps"]
    return next(step for step in steps if step["node"] == node)


def test_plain_transformers_give_the_same_text(trained: str, run: Run) -> None:
    done = run("merge", trained, "draft", "whole")
    assert done.code == 0, done.err
    assert done.out.startswith(f"vllm serve {Path('whole').absolute()} ")
    assert done.out.rstrip().endswith("--served-model-name draft")
    step = played(run, "draft", "--run", trained)
    tokenizer = AutoTokenizer.from_pretrained("whole")
    model = AutoModelForCausalLM.from_pretrained("whole")
    assert model.dtype == torch.float32
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Draft train 0"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.no_grad():
        out = model.generate(**ids, max_new_tokens=5)
    text = tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    assert text.strip() == step["output"]["text"]
    assert played(run, "draft")["output"]["text"] != step["output"]["text"]
    assert {"config.json", "generation_config.json", "tokenizer.json", "flow.json"} <= {
        path.name for path in Path("whole").iterdir()
    }


def test_its_readme_plays_it(trained: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = played(run, "write", "--run", trained)
    draft = played(run, "draft", "--run", trained)["output"]["text"]
    good = played(run, "check", "--run", trained)["output"]["text"]
    done = run("merge", trained, "write", "whole", "--json")
    assert done.code == 0, done.err
    flow = json.loads(done.out)
    assert flow["merged"]["node"] == "write"
    assert flow["base_model"]["loaded_from"] == "."
    assert flow["vllm"].startswith("vllm serve . ")
    monkeypatch.chdir("whole")
    code: dict[str, Any] = {}
    exec(readme_code(Path(), "Prompts", "With transformers"), code)
    assert code["generate"]("write", draft=draft, good=good) == expected["output"]["text"]


def test_another_dtype(trained: str, run: Run) -> None:
    done = run("merge", trained, "draft", "whole", "--dtype", "bfloat16")
    assert done.code == 0, done.err
    assert "--dtype float32 keeps it whole" in done.err
    assert {value.dtype for value in load_file("whole/model.safetensors").values()} == {
        torch.bfloat16
    }
    again = run("merge", trained, "draft", "whole")
    assert (again.code, "--overwrite" in again.err) == (2, True)
    assert run("merge", trained, "draft", "whole", "--overwrite").code == 0
    assert AutoModelForCausalLM.from_pretrained("whole").dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["drfat", "out"], "Did you mean 'draft'?"),
        (["draft", "there"], "is not a directory"),
        (["draft", "full"], "--overwrite"),
        (["draft", "full", "--overwrite"], "it has no flow.json"),
        (["draft", "out", "--set", f"tasks.letters.nodes.draft.prompt={PROMPT}"], "adapter off"),
        (["draft", "out", "--set", "model.quantization=nf4"], "quantised ('nf4')"),
        (["draft", "out", "--dtype", "int8"], "int8"),
    ],
)
def test_what_is_refused(trained: str, run: Run, arguments: list[str], said: str) -> None:
    Path("there").write_text("mine")
    Path("full").mkdir()
    (Path("full") / "mine").write_text("mine")
    done = run("merge", trained, *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert not Path("out").exists()
    assert {path.name for path in Path("full").iterdir()} == {"mine"}


def test_a_node_without_an_adapter(letters: Site, run: Run) -> None:
    given = ["--limit", "2", "--set", "tasks.letters.nodes.draft.learn=nothing"]
    assert run("train", "letters", *given).code == 0
    done = run("merge", "letters-001", "draft", "out")
    assert (done.code, Path("out").exists()) == (2, False)
    assert "no adapter that could be merged: it is played by the base model alone" in done.err


def test_an_adapter_that_does_not_fit_is_not_merged_in_part(trained: str, run: Run) -> None:
    [path] = sorted(Path("runs/letters-001/checkpoints").glob("*/adapters/draft/*.safetensors"))
    state = load_file(path)
    state.pop(sorted(state)[0])
    save_file(state, path, metadata={"format": "pt"})
    done = run("merge", trained, "draft", "out")
    assert (done.code, Path("out").exists()) == (2, False)
    assert "cannot be merged" in done.err


def test_an_earlier_checkpoint(letters: Site, run: Run) -> None:
    assert run("train", "letters").code == 0
    assert run("merge", "letters-001@4", "draft", "out").code == 0
    assert json.loads(Path("out/flow.json").read_text())["episodes"] == 4
    done = run("merge", "letters-001@5", "draft", "other")
    assert (done.code, "has no checkpoint '5'" in done.err) == (2, True)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("x")])
def test_weights_that_cannot_be_written(
    trained: str, run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("transformers.LlamaForCausalLM.save_pretrained", full)
    done = run("merge", trained, "draft", "out")
    assert (done.code, Path("out").exists()) == (1, False)
    assert "cannot write" in done.err
    assert not list(Path.cwd().glob(".flowtune-*"))
