"""Exported adapters compute what the run's do, and are named as servers want them."""

from __future__ import annotations

import copy
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from flowtune_cli.flow.errors import FlowtuneError, UsageError
from flowtune_cli.models.loading import LoadedModel
from flowtune_cli.runs.export_adapters import Base, export_adapters, serve_command
from support.tiny import logits, make_adapters, text

BASE = Base("some/model", "main", "some/model")
ABOUT = {"run": "letters-001", "task": "letters"}


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_model: LoadedModel) -> Path:
    """A checkpoint of nodes "a" and "b", the latter calibrated."""
    adapters = make_adapters(tiny_model, {"a": {}, "b": {"x": 2.0, "y": -1.5}})
    adapters.versions["a"] = 7
    directory = tmp_path / "checkpoints" / "0000032"
    adapters.save(directory / "adapters")
    return directory


def export(target: Path, checkpoint: Path, **more: Any) -> dict[str, Any]:
    frozen_prefixes = {"a": "Found: {found}", "b": ""}
    options = {"overwrite": False, **more}
    return export_adapters(target, checkpoint, BASE, ABOUT, frozen_prefixes, **options)


def test_the_manifest(tmp_path: Path, checkpoint: Path) -> None:
    target = tmp_path / "out"
    manifest = export(target, checkpoint)
    assert json.loads((target / "manifest.json").read_text()) == manifest
    assert manifest["adapters"] == [
        {"node": "a", "path": "a", "rank": 4, "version": 7, "frozen_prefix": "Found: {found}"},
        {"node": "b", "path": "b", "rank": 4, "version": 0, "head": {"x": 2.0, "y": -1.5}},
    ]
    about = {key: manifest[key] for key in ("base_model", "revision", "run", "task", "episode")}
    assert about == {"base_model": "some/model", "revision": "main", "episode": 32, **ABOUT}
    assert {path.name for path in target.iterdir()} == {"a", "b", "manifest.json"}
    config = json.loads((target / "a" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("some/model", "main")


def test_peft_computes_what_the_engine_does(tmp_path: Path, tiny_model: LoadedModel) -> None:
    plain = copy.deepcopy(tiny_model.model)
    adapters = make_adapters(tiny_model)
    adapters.save(tmp_path / "0000001" / "adapters")
    export(tmp_path / "out", tmp_path / "0000001")
    ids = text(20)
    loaded: Any = PeftModel.from_pretrained(
        plain, str(tmp_path / "out" / "a"), adapter_name="first"
    )
    loaded.load_adapter(str(tmp_path / "out" / "b"), adapter_name="second")
    for name, node in (("first", "a"), ("second", "b")):
        loaded.set_adapter(name)
        found = loaded(torch.tensor([list(ids)])).logits[0]
        torch.testing.assert_close(found, logits(adapters, node, ids), atol=1e-5, rtol=1e-5)
    difference = logits(adapters, "a", ids) - logits(adapters, "b", ids)
    assert difference.abs().max() > 0.1  # it would have been seen


def test_an_older_export_is_replaced_when_asked(tmp_path: Path, checkpoint: Path) -> None:
    target = tmp_path / "out"
    export(target, checkpoint)
    with pytest.raises(UsageError, match="--overwrite"):
        export(target, checkpoint)
    (target / "left-over").touch()
    export(target, checkpoint, overwrite=True)
    assert not (target / "left-over").exists()


def test_a_checkpoint_that_goes_meanwhile(tmp_path: Path, checkpoint: Path) -> None:
    (checkpoint / "adapters" / "b" / "adapter_model.safetensors").unlink()
    with pytest.raises(FlowtuneError, match="try again"):
        export(tmp_path / "out", checkpoint)
    assert not (tmp_path / "out").exists()
    with pytest.raises(FlowtuneError, match="no adapters"):
        export(tmp_path / "out", tmp_path)


@pytest.mark.parametrize(("rank", "most"), [(8, None), (16, None), (17, "32"), (400, "512")])
def test_the_command_that_serves_them(tmp_path: Path, rank: int, most: str | None) -> None:
    manifest = {
        "base_model_loaded_from": "some/model",
        "revision": "abc",
        "adapters": [
            {"node": n, "path": n, "rank": r} for n, r in (("query", 2), ("answer", rank))
        ],
    }
    target = tmp_path / "a b"
    command = shlex.split(serve_command(target, manifest))
    assert command[:5] == ["vllm", "serve", "some/model", "--revision", "abc"]
    modules = command[command.index("--lora-modules") + 1 :]
    assert modules == [f"query={target}/query", f"answer={target}/answer"]
    given = command[command.index("--max-lora-rank") + 1] if most else None
    assert given == most
    assert ("--max-lora-rank" in command) == (most is not None)
