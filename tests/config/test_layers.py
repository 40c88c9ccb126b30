"""Reading layers of settings: what is a setting where, and which of them counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowtune_cli.config.layers import (
    Origin,
    Setting,
    from_environment,
    from_file,
    from_flags,
    from_overrides,
    from_task,
    toml_or_text,
)
from flowtune_cli.flow.errors import UsageError


def test_a_file_is_a_layer(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text('preset = "x"\n[a]\nb = 1\nc = {d = 2, e = {}}\n', encoding="utf-8")
    origin = Origin("file", str(file))
    assert from_file(file) == {
        ("preset",): Setting("x", origin),
        ("a",): Setting({"b": 1, "c": {"d": 2, "e": {}}}, origin),
    }


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none.toml: cannot be read: No such file"):
        from_file(tmp_path / "none.toml")
    file = tmp_path / "bad.toml"
    file.write_text("a = \n")
    with pytest.raises(UsageError, match=r"bad.toml is not a TOML file: .*line 1"):
        from_file(file)
    file.write_bytes(b"a = '\xff'\n")
    with pytest.raises(UsageError, match=r"the settings file .*bad.toml:1: not UTF-8: byte 0xff"):
        from_file(file)
    file.write_text("a = 1\n", encoding="utf-16")
    with pytest.raises(UsageError, match=r"the settings file .*bad.toml: the file is UTF-16"):
        from_file(file)


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text("a = 1\n", encoding="utf-8-sig")
    assert from_file(file) == {("a",): Setting(1, Origin("file", str(file)))}


def test_which_variables_are_settings() -> None:
    environ = {
        "FLOWTUNE_MODEL__NAME": "foo/bar",
        "flowtune_training__seed": "7",
        "FLOWTUNE_PLUGINS": "a__b",
        "FLOWTUNE_CACHE": "x",
        "FLOWTUNE_PRESET": "small",
        "OTHER__NAME": "x",
    }
    found = from_environment(environ)
    assert {k: (s.value, s.text, s.origin.text) for k, s in found.items()} == {
        ("model", "name"): ("foo/bar", "foo/bar", "environment FLOWTUNE_MODEL__NAME"),
        ("training", "seed"): (7, "7", "environment flowtune_training__seed"),
        ("preset",): ("small", "small", "environment FLOWTUNE_PRESET"),
    }
    assert {setting.origin.layer for setting in found.values()} == {"environment"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("7.5", 7.5),
        ("true", True),
        ("'x'", "x"),
        ('["a", "b"]', ["a", "b"]),
        ("{lr = 1e-4}", {"lr": 1e-4}),
        ("foo/bar", "foo/bar"),
        ("builtin:smollm2-135m", "builtin:smollm2-135m"),
        ("True", "True"),
        ("", ""),
        ("1\nother = 2", "1\nother = 2"),
    ],
)
def test_a_value_is_toml_or_text(text: str, value: object) -> None:
    assert toml_or_text(text) == value


def test_overrides() -> None:
    origin = Origin("command line", "--set")
    assert from_overrides(["model.name = a=b", "learning.optimizer={lr = 1}"]) == {
        ("model", "name"): Setting("a=b", origin, "a=b"),
        ("learning", "optimizer"): Setting({"lr": 1}, origin, "{lr = 1}"),
    }
    last = from_overrides(["a.b=1", "a.c={}", "a.b=2"])
    assert [(key, setting.value) for key, setting in last.items()] == [
        (("a", "c"), {}),
        (("a", "b"), 2),
    ]
    for bad in ("model", "model=1", "model.=1", ".name=1", "=1", "model.name"):
        with pytest.raises(UsageError, match="--set wants"):
            from_overrides([bad])


def test_flags_are_named_after_their_setting() -> None:
    flags = {
        "training.limit": 5,
        "model.name": "m",
        "training.batch_size": 2,
        "run.directory": None,
        "preset": "x",
    }
    found = {".".join(key): str(setting.origin) for key, setting in from_flags(flags).items()}
    assert found == {
        "training.limit": "--limit",
        "model.name": "--model",
        "training.batch_size": "--batch-size",
        "preset": "--preset",
    }


def test_a_task_may_leave_out_its_own_name() -> None:
    origin = Origin("preset", "preset p")
    values = {"training.seed": 1, "hops": 2, "nodes.query.weight": 3, "tasks.t.style": "odd"}
    assert {key: setting.value for key, setting in from_task("t", values, origin).items()} == {
        ("training", "seed"): 1,
        ("tasks", "t", "hops"): 2,
        ("tasks", "t", "nodes", "query", "weight"): 3,
        ("tasks", "t", "style"): "odd",
    }


def test_which_origin_overrides_the_other() -> None:
    layers = ("default", "task", "preset", "run", "file", "environment", "command line")
    assert [Origin(layer, "").rank for layer in layers] == [0, 0, 0, 0, 1, 2, 3]


def test_an_origin_is_stored() -> None:
    origin = Origin("file", "flowtune.toml")
    assert origin.to_json() == {"layer": "file", "text": "flowtune.toml"}
    continued = Origin("file", "flowtune.toml", run="a")
    assert Origin(**continued.to_json()) == continued
    assert str(continued) == "flowtune.toml (run a)"
