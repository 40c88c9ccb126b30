"""Exported adapters compute what the run's do, with all else that a node needs beside them."""

from __future__ import annotations

import copy
import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from flowtune_cli import Generate, Judge, Template
from flowtune_cli.exports.folder import About, write_adapters
from flowtune_cli.flow.errors import FlowtuneError, UsageError
from flowtune_cli.models.loading import LoadedModel
from support.exported import about_model
from support.tiny import logits, make_adapters, text
from support.tiny_training import Urn

HEAD = {"likelihood": 2.0, "bias": -1.5}


@pytest.fixture
def about(tiny_settings: Any) -> About:
    return about_model(tiny_settings)


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_model: LoadedModel) -> Path:
    """A checkpoint of nodes "a" and "b", the latter with a head."""
    adapters = make_adapters(tiny_model, {"a": {}, "b": HEAD})
    adapters.versions["a"] = 7
    directory = tmp_path / "checkpoints" / "0000032"
    adapters.save(directory / "adapters")
    (directory / "state.json").write_text('{"nodes": {"urn": {"balls": 3}}}')
    return directory


NODES = (
    Generate(name="a", prompt=Template("{x}", system="S")),
    Judge(name="b", prompt=Template("{x}"), score="likelihood", text="{y}"),
)


def export(target: Path, checkpoint: Path, about: About, **more: Any) -> dict[str, Any]:
    return write_adapters(target, checkpoint, about, NODES, **{"overwrite": False, **more})


def test_what_is_written(tmp_path: Path, checkpoint: Path, about: About) -> None:
    target = tmp_path / "out"
    flow = export(target, checkpoint, about)
    assert json.loads((target / "flow.json").read_text()) == flow
    assert flow["nodes"]["a"]["adapter"] == {"name": "a", "path": "a", "rank": 4, "version": 7}
    assert flow["nodes"]["b"]["head"] == HEAD
    told = {key: flow[key] for key in ("version", "run", "task", "episodes")}
    assert told == {"version": 1, "run": "everything-001", "task": "everything", "episodes": 32}
    written = {"a", "b", "flow.json", "README.md", "chat_template.jinja"}
    assert {path.name for path in target.iterdir()} == written
    config = json.loads((target / "a" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == about.base_model["loaded_from"]
    assert config["revision"] is None


def test_the_base_model_of_the_hub(tmp_path: Path, checkpoint: Path, about: About) -> None:
    hub = {**about.base_model, "loaded_from": "some/model", "revision": "abc"}
    export(tmp_path / "out", checkpoint, replace(about, base_model=hub))
    config = json.loads((tmp_path / "out" / "a" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("some/model", "abc")
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "vllm serve some/model" in readme
    assert "--revision abc" in readme
    assert readme.count('revision=base["revision"]') == 2


def test_a_node_that_learns_by_itself(tmp_path: Path, checkpoint: Path, about: About) -> None:
    nodes = (*NODES, Urn())
    flow = write_adapters(tmp_path / "out", checkpoint, about, nodes, overwrite=False)
    urn = flow["nodes"]["urn"]
    assert (urn["adapter"], urn["state"]) == (None, {"balls": 3})
    assert urn["code"].endswith("tiny_training.Urn")
    assert set(urn["unwritten"]) == {"request"}


def test_peft_computes_what_the_engine_does(
    tmp_path: Path, tiny_model: LoadedModel, about: About
) -> None:
    plain = copy.deepcopy(tiny_model.model)
    adapters = make_adapters(tiny_model, {"a": {}, "b": HEAD})
    adapters.save(tmp_path / "0000001" / "adapters")
    (tmp_path / "0000001" / "state.json").write_text('{"nodes": {}}')
    export(tmp_path / "out", tmp_path / "0000001", about)
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


def test_an_older_export_is_replaced_when_asked(
    tmp_path: Path, checkpoint: Path, about: About
) -> None:
    target = tmp_path / "out"
    export(target, checkpoint, about)
    with pytest.raises(UsageError, match="--overwrite"):
        export(target, checkpoint, about)
    (target / "left-over").touch()
    export(target, checkpoint, about, overwrite=True)
    assert not (target / "left-over").exists()


def test_a_checkpoint_that_goes_meanwhile(tmp_path: Path, checkpoint: Path, about: About) -> None:
    (checkpoint / "adapters" / "b" / "adapter_model.safetensors").unlink()
    with pytest.raises(FlowtuneError, match="try again"):
        export(tmp_path / "out", checkpoint, about)
    assert not (tmp_path / "out").exists()
    frozen = [Generate(name="a", prompt=Template("x"), learn="nothing")]
    with pytest.raises(FlowtuneError, match="no adapters"):
        write_adapters(tmp_path / "out", checkpoint, about, frozen, overwrite=False)


def test_a_full_disk_leaves_nothing(
    tmp_path: Path, checkpoint: Path, about: About, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    export(target, checkpoint, about)
    before = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("flowtune_cli.exports.folder.shutil.copyfile", full)
    with pytest.raises(FlowtuneError, match="No space left"):
        export(target, checkpoint, about, overwrite=True)
    with pytest.raises(FlowtuneError, match="No space left"):
        export(tmp_path / "other", checkpoint, about)
    assert {path.name: path.stat().st_mtime_ns for path in target.iterdir()} == before
    assert not (tmp_path / "other").exists()
    assert not list(tmp_path.glob(".flowtune-*"))
