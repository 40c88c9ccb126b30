"""Writes docs/architectures.md: how each architecture of transformers is run, as it was tried.

    python docs/architectures.py [NAME ...]

A tiny random model of each is made, proved and held against its own ``generate`` and forward, in
float32, with and without an adapter, by the code that tests/engine/test_architectures.py runs. It
takes some minutes. With names, only these rows are tried and the others kept.
"""

from __future__ import annotations

import re
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from transformers.utils import logging

from support.architectures import architectures, make_architecture
from support.examined import Examined, examine

FILE = Path(__file__).with_name("architectures.md")

HEADER = """# Architectures

How each architecture that transformers {version} has a causal language model for is run, tried on
a tiny random model in float32: `python docs/architectures.py` wrote this. *mistral-wide* is a
mistral with a window that its context cannot exceed, *falcon-alibi* a falcon without rotary
embeddings, *phi3-longrope* a phi3 whose rotary embeddings change within its context.

Right means: greedy decoding gives the tokens of `generate`, log-likelihoods those of a plain
forward, gradients those of a plain backward, with and without an adapter, in batches of unlike
texts, some longer than the windows, and, where the last column says so, after a frozen prefix.
When a model is loaded, flowtune makes such comparisons itself; see [models](models.md).

| architecture | played by | learned by | frozen prefixes |
|---|---|---|---|
"""


def row(name: str, examined: Examined) -> str:
    """A line of the table."""
    if examined.faults:
        return f"| {name} | **wrong**: {examined.faults[0]} | | |"
    if examined.paths is None:
        return f"| {name} | refused: {_short(examined.refused)} | | |"
    paths = examined.paths
    frozen = "yes" if paths.frozen_prefixes else "refused"
    return f"| {name} | {paths.playing} | {paths.learning} | {frozen} |"


def rows() -> dict[str, str]:
    """The lines of the table as it is, by architecture."""
    if not FILE.exists():
        return {}
    found = re.findall(r"^\| ([\w.-]+) \|.*\|$", FILE.read_text(), re.MULTILINE)
    lines = re.findall(r"^\| [\w.-]+ \|.*\|$", FILE.read_text(), re.MULTILINE)
    return {name: line for name, line in zip(found, lines, strict=True) if name != "architecture"}


def _short(text: str) -> str:
    """The first sentence, without what would break the table."""
    return " ".join(text.split(". ")[0].split()).replace("|", "/")[:160]


def main(names: list[str]) -> None:
    logging.set_verbosity(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    table = rows() if names else {}
    for name in names or architectures():
        try:
            model = make_architecture(name)
        except NotImplementedError as error:
            print(f"{name}: not made: {error}", file=sys.stderr)
            continue
        try:
            table[name] = row(name, examine(model))
        except Exception as error:
            table[name] = (
                f"| {name} | **fails**: {type(error).__name__}: {_short(str(error))} | | |"
            )
        print(table[name], flush=True)
        lines = "".join(f"{table[name]}\n" for name in sorted(table))
        FILE.write_text(HEADER.format(version=version("transformers")) + lines)


if __name__ == "__main__":
    main(sys.argv[1:])
