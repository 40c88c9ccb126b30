"""Findings about labels that stand in the open: what a flow is shown, and should have to find."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...flow.example import Example
from ...flow.task import Task
from ...programs.task import ProgramTask
from .finding import Finding


def label_findings(task: Task, examples: Sequence[Example]) -> Iterator[Finding]:
    """Inputs that are labels, as far as the examples and the settings tell."""
    if isinstance(task, ProgramTask):
        yield from _of_program(task)
    yield from _equal(examples)


def _of_program(task: ProgramTask) -> Iterator[Finding]:
    gold = task.settings.gold
    advice = f"Name them in tasks.{task.name}.gold (--gold), so that the program is not shown them."
    for target in task.targets or ():
        if target.fields and not set(target.fields) & set(gold):
            names = ", ".join(f"'{name}'" for name in target.fields)
            yield Finding(
                "target-shown",
                "warning",
                f"the target of node '{target.node}' is made of {names}, which the program is"
                " shown: what it is to find may stand in its prompt",
                advice,
                node=target.node,
            )
    if task.reward is not None and not gold:
        yield Finding(
            "no-gold",
            "note",
            f"no field of the data is gold, so the program is shown all that its reward"
            f" '{task.reward.name}' sees",
            f"If there are right answers among the fields, name them in tasks.{task.name}.gold"
            " (--gold).",
        )


def _equal(examples: Sequence[Example]) -> Iterator[Finding]:
    """Inputs that are the same as a label at all of several examples."""
    labels = [_labels(example) for example in examples if example.gold is not None]
    inputs = [example.inputs for example in examples if example.gold is not None]
    if len(labels) < 2:
        return
    for label, first in labels[0].items():
        if all(each.get(label) == first for each in labels):
            continue  # a constant tells nothing
        for name in inputs[0]:
            pairs = zip(inputs, labels, strict=True)
            if all(_same(given.get(name), each.get(label)) for given, each in pairs):
                yield Finding(
                    "gold-among-inputs",
                    "warning",
                    f"the input '{name}' is the same as {label or 'the label'} at all of"
                    f" {len(labels):,} examples: the flow is shown what it is to find",
                    "Make it a label, too, or leave it out of the inputs.",
                )


def _labels(example: Example) -> Mapping[str, Any]:
    gold = example.gold
    if isinstance(gold, Mapping):
        return {f"the label '{name}'": value for name, value in gold.items()}
    return {"": gold}


def _same(value: Any, label: Any) -> bool:
    return isinstance(value, (str, int, float)) and type(value) is type(label) and value == label
