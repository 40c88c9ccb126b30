"""The state of an optimizer as a file: tensors as safetensors, all else as JSON in its header.

A state is made of dictionaries, lists, tuples, numbers, texts, None and tensors, nested at will.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..flow.errors import UsageError

_STRUCTURE = "structure"
"""The key of the JSON in the file's header."""


class StateError(Exception):
    """A state holds a value of a kind that no file of ours can hold; says where and of which."""


def save_state(state: Any, path: Path) -> None:
    """Write a state.

    Raises:
        StateError: it holds something else than what the module's docstring says.
        OSError, SafetensorError: the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    structure = json.dumps(_encode(state, "", tensors))
    save_file(tensors, path, metadata={_STRUCTURE: structure})


def load_state(path: Path) -> Any:
    """Read what ``save_state`` wrote, equal to the bit; tensors are on the CPU.

    Raises:
        UsageError: there is no such file, or it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            structure = json.loads((file.metadata() or {})[_STRUCTURE])
        return _decode(structure, tensors)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UsageError(f"{path} is no optimizer state: {error}") from None


def _encode(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """The JSON of a value, whose tensors are put aside under their places in it."""
    if isinstance(value, Tensor):
        # A copy, as several entries may be one tensor.
        tensors[where] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": where}
    if isinstance(value, Mapping):
        pairs = []
        for key, inside in value.items():
            _check_scalar(key, f"a key in {where or 'it'}")
            pairs.append([key, _encode(inside, f"{where}.{key}".lstrip("."), tensors)])
        return {"dict": pairs}
    if type(value) in (list, tuple):
        items = [_encode(v, f"{where}.{n}".lstrip("."), tensors) for n, v in enumerate(value)]
        return {type(value).__name__: items}
    _check_scalar(value, where or "it")
    return value


def _check_scalar(value: Any, where: str) -> None:
    # A NumPy number is a float in Python's eyes, and would come back as another type.
    if value is not None and type(value) not in (bool, int, float, str):
        raise StateError(f"{where} is of type {type(value).__name__}")


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inside),) = value.items()
    if kind == "tensor":
        return tensors[inside]
    if kind == "dict":
        return {key: _decode(each, tensors) for key, each in inside}
    items = [_decode(each, tensors) for each in inside]
    return tuple(items) if kind == "tuple" else items


def optimizer_state(
    optimizer: torch.optim.Optimizer, at_first: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """All that steps have changed in an optimizer: its state, and what it keeps in its groups.

    Args:
        at_first: its groups' options when it was made. What has not changed since is left to the
            settings, so that a run that goes on from another's weights may have others.
    """
    state = optimizer.state_dict()
    changed = [
        {key: value for key, value in group.items() if not _same(value, first.get(key))}
        for group, first in zip(state["param_groups"], at_first, strict=True)
    ]
    for group in changed:
        group.pop("params", None)
    return {"state": state["state"], "groups": changed}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Put back what ``optimizer_state`` gave."""
    groups = optimizer.state_dict()["param_groups"]
    merged = [{**g, **changed} for g, changed in zip(groups, state["groups"], strict=True)]
    optimizer.load_state_dict({"state": state["state"], "param_groups": merged})


def group_options(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """A copy of each group's options, without its parameters."""
    return [
        {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]


def on_cpu(state: Any) -> Any:
    """A state whose tensors are on the CPU."""
    if isinstance(state, Tensor):
        return state.detach().cpu()
    if isinstance(state, Mapping):
        return {key: on_cpu(value) for key, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(on_cpu(value) for value in state)
    return state


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        both = isinstance(one, Tensor) and isinstance(other, Tensor)
        return both and torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)
