"""The text of flowtune.toml: every setting with its meaning and default, made from settings.py."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from typing import Any

from pydantic.fields import FieldInfo

from .settings import SECTIONS, Settings, subsections

_HEAD = """\
# The settings of flowtune, all of them, each with its default.
# To change one, take the '#' in front of it away.
#
# A task's own defaults override these, then come its preset, this file, environment variables
# (FLOWTUNE_TRAINING__SEED=7), '--set training.seed=7' and options such as '--limit'. The empty
# string "" unsets a setting that has no default. 'flowtune config' shows the effective settings.
# A relative path is relative to this file.
"""

_EXAMPLE = """\
#[tasks.NAME]
# The settings of a task: 'flowtune show NAME' lists them.
#key = "value"

#[tasks.NAME.nodes.NODE]
# Every field of the node can be set; for a prompt, single fields of it.
#max_new_tokens = 50
#exploration = {name = "multi_sample", temperature = 1.2}
#evaluator = {name = "llm_judge", tie = 0.1}
#optimizer = {lr = 1e-5}
#prompt.system = "Answer in one word."
"""


def template() -> str:
    """A complete flowtune.toml. A line with a setting begins with '#', a comment with '# '."""
    parts = [_HEAD, "\n".join(_setting("preset", Settings.model_fields["preset"]))]
    for name, section in SECTIONS.items():
        lines = [*_comment(section.__doc__ or ""), f"[{name}]"]
        for key, field in section.model_fields.items():
            if key in subsections(section):
                continue
            lines += ["", *_setting(key, field)]
        parts.append("\n".join(lines) + "\n")
    about = Settings.model_fields["tasks"].description or ""
    parts.append("\n".join([*_comment(about), _EXAMPLE]))
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def toml_value(value: Any) -> str:
    """A value as TOML writes it on one line; None is the empty text, which unsets."""
    if value is None:
        return '""'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {toml_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    bare = key.replace("_", "").replace("-", "")
    return key if bare.isalnum() and bare.isascii() else toml_value(key)


def _setting(key: str, field: FieldInfo) -> list[str]:
    return [*_comment(field.description or ""), f"#{key} = {toml_value(field.default)}"]


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, width=99, initial_indent="# ", subsequent_indent="# ")
