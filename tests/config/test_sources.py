"""Reading settings: where each key of a TOML text stands, and what is a setting elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli.config.sources import (
    from_environment,
    from_file,
    from_flags,
    from_overrides,
    from_stored,
    key_lines,
    toml_or_text,
)
from flowtune_cli.flow.errors import UsageError

TRICKY = """\
# [not.a] = "table"
top = 1   # top = 2
"quoted key" . sub = '''
fake = 3
''''   # ends with a quote of its own ' [
[ section ]   # [other]
text = \"\"\"
[inside]
not = "a key"
\\\"\"\" still inside
\"\"\"\" # so does this " [
list = [
  "]", # ]
  [1, 2],
]
inline = { a = 1, b = { c = "}" } }
dotted.deep = 1
[section.'sub.table']
last = "#"
[[many]]
x = 1
"""


def test_key_lines_of_a_tricky_file() -> None:
    lines = key_lines(TRICKY)
    wanted = {
        ("top",): "top = 1",
        ("quoted key",): '"quoted key"',
        ("quoted key", "sub"): '"quoted key"',
        ("section",): "[ section ]",
        ("section", "text"): 'text = """',
        ("section", "list"): "list = [",
        ("section", "inline"): "inline =",
        ("section", "dotted"): "dotted.deep",
        ("section", "dotted", "deep"): "dotted.deep",
        ("section", "sub.table"): "[section.'sub.table']",
        ("section", "sub.table", "last"): "last =",
        ("many",): "[[many]]",
        ("many", "x"): "x = 1",
    }
    texts = TRICKY.splitlines()
    assert set(lines) == set(wanted)
    for path, beginning in wanted.items():
        assert texts[lines[path] - 1].startswith(beginning), path


_words = st.text("ab1_-", min_size=1, max_size=4)
_values = st.recursive(
    st.integers() | st.text(st.characters(exclude_categories=["Cs", "Cc"])) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


_tables = st.dictionaries(_words, _values, min_size=1, max_size=3)


@given(st.dictionaries(_words, _tables, min_size=1, max_size=3))
def test_key_lines_of_any_file(tables: dict[str, dict[str, object]]) -> None:
    texts, wanted = [], {}
    for table, entries in tables.items():
        texts.append(f"[{table}] # a [comment]")
        wanted[(table,)] = len(texts)
        for key, value in entries.items():
            written = json.dumps(value, ensure_ascii=False, indent=1 if len(texts) % 2 else None)
            wanted[(table, key)] = len(texts) + 1
            texts += f"{key} = {written}".split("\n")
    assert key_lines("\n".join(texts)) == wanted


def test_a_file_becomes_leaves_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text("[a]\nb = 1\nc = {d = 2, e = {}}\n[empty]\n", encoding="utf-8")
    found = {a.path: (a.value, a.origin) for a in from_file(file)}
    assert found == {
        ("a", "b"): (1, f"{file}:2"),
        ("a", "c", "d"): (2, f"{file}:3"),
        ("a", "c", "e"): ({}, f"{file}:3"),
        ("empty",): ({}, f"{file}:4"),
    }


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none.toml: No such file"):
        from_file(tmp_path / "none.toml")
    file = tmp_path / "bad.toml"
    file.write_text("a = \n")
    with pytest.raises(UsageError, match=r"bad.toml is not a TOML file: .*line 1"):
        from_file(file)
    file.write_bytes(b"a = '\xff'\n")
    with pytest.raises(UsageError, match=r"bad.toml is not a TOML file"):
        from_file(file)


def test_which_variables_are_settings() -> None:
    environ = {
        "FLOWTUNE_MODEL__NAME": "foo/bar",
        "flowtune_training__seed": "7",
        "FLOWTUNE_PLUGINS": "a__b",
        "FLOWTUNE_CACHE": "x",
        "OTHER__NAME": "x",
    }
    found = {a.path: (a.value, a.text, a.origin) for a in from_environment(environ)}
    assert found == {
        ("model", "name"): ("foo/bar", "foo/bar", "environment FLOWTUNE_MODEL__NAME"),
        ("training", "seed"): (7, "7", "environment flowtune_training__seed"),
    }


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
    [a, b] = from_overrides(["model.name = a=b", "learning.optimizer_options={lr = 1}"])
    assert (a.path, a.value, a.origin) == (("model", "name"), "a=b", "--set")
    assert (b.path, b.value) == (("learning", "optimizer_options", "lr"), 1)
    for bad in ("model", "model=1", "model.=1", ".name=1", "=1", "model.name"):
        with pytest.raises(UsageError, match="--set wants"):
            from_overrides([bad])


def test_flags_are_named_after_their_setting() -> None:
    flags = {
        "training.limit": 5,
        "model.name": "m",
        "training.batch_size": 2,
        "run.directory": None,
    }
    found = {a.key: a.origin for a in from_flags(flags)}
    assert found == {
        "training.limit": "--limit",
        "model.name": "--model",
        "training.batch_size": "--batch-size",
    }


def test_what_chooses_comes_before_its_options() -> None:
    stored = {"learning": {"optimizer_options": {"lr": 1}, "optimizer": "adam"}}
    assert [a.key for a in from_stored(stored, "run")] == [
        "learning.optimizer",
        "learning.optimizer_options.lr",
    ]
