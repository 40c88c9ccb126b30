"""What the engine decodes, scores and learns is what each architecture's own forward computes.

A dozen is tried each time, all that transformers has with ``-m architectures``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from support.architectures import architectures, make_architecture
from support.examined import examine

DOCS = Path(__file__).parents[2] / "docs"

DOZEN = {
    "bloom": "padded",
    "deepseek_v3": "plain",
    "gemma2": "padded",
    "gpt2": "cascade",
    "hyperclovax": "cascade",
    "jamba": "plain",
    "llama": "cascade",
    "mamba": "plain",
    "mistral": "padded",
    "mistral-wide": "cascade",
    "mixtral": "cascade",
    "mpt": "padded",
    "nemotron": "padded",
    "phi3-longrope": "cascade",
    "qwen3_next": "plain",
}
"""Attention of all kinds and none, and how each is played."""


@pytest.mark.parametrize("name", sorted(DOZEN))
def test_the_engine_computes_what_the_model_does(name: str) -> None:
    examined = examine(make_architecture(name))
    assert examined.faults == []
    assert examined.paths is not None
    assert examined.paths.playing == DOZEN[name]
    frozen = "yes" if examined.paths.frozen_prefixes else "refused"
    row = f"| {name} | {examined.paths.playing} | {examined.paths.learning} | {frozen} |"
    assert row in (DOCS / "architectures.md").read_text().splitlines()


@pytest.mark.architectures
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", architectures())
def test_every_architecture_is_right_or_refused(name: str) -> None:
    try:
        model = make_architecture(name)
    except NotImplementedError as error:
        pytest.skip(str(error))
    assert examine(model).faults == []
