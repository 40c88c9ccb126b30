"""A small float32 copy of a model that has each kind of its layers: in it faults cannot hide."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.hooks import remove_hook_from_module
from torch import nn

from ..models.split import split_devices
from .baseline import BROKEN
from .windows import WINDOWS, bites, rope_groups, rope_switch, switch, window

WINDOW = 8
"""The width of the copy's windows, in tokens: what is read crosses them."""

SWITCH = 33
"""Where the copy's rotary embeddings change their factors, in tokens."""

VOCABULARY = 512
"""How many tokens the copy has."""

MOST_PARAMETERS = 1_500_000_000
"""A larger copy is not made."""


def structural_copy(model: Any, context: int) -> Any | None:
    """The first layers of a model that include each kind, in float32, with narrow windows.

    Weights that are quantised, which cannot be copied into float32, are drawn at random.

    Args:
        context: the longest text that the model will read, in tokens.

    Returns:
        A model of its own; None if the model's layers cannot be taken apart.
    """
    with _first_layers(model) as taken:
        if _size(model) > (MOST_PARAMETERS if taken else MOST_PARAMETERS // 8):
            return None
        try:
            made = _copy(model)
        except (RuntimeError, TypeError, ValueError):
            return None
    text = made.config.get_text_config(decoder=True)
    if bites(model.config, context):
        _narrow(made, text)
    if rope_switch(model.config, context) is not None:
        for group in rope_groups(text):
            if switch(group):
                group["original_max_position_embeddings"] = SWITCH
        if hasattr(text, "original_max_position_embeddings"):
            text.original_max_position_embeddings = SWITCH
    return made


def _copy(model: Any) -> Any:
    """In float32 on one device, with few tokens if a model still runs with them."""
    if not all(parameter.is_floating_point() for parameter in model.parameters()):
        model = _drawn(model)
    with _few_tokens(model) as found:
        made = _on_one_device(model)
    if not found:
        return made
    made.config.get_text_config(decoder=True).vocab_size = VOCABULARY
    embeddings, head = made.get_input_embeddings(), made.get_output_embeddings()
    embeddings.num_embeddings = head.out_features = VOCABULARY
    embeddings.padding_idx = None
    try:
        with torch.no_grad():
            ids = torch.zeros((1, 2), dtype=torch.long, device=made.device)
            if made(input_ids=ids).logits.shape[-1] == VOCABULARY:
                return made
    except BROKEN:
        pass
    return _on_one_device(model)


def _on_one_device(model: Any) -> Any:
    """A copy in float32, where the model reads tokens."""
    made = copy.deepcopy(model).float().eval().requires_grad_(False)
    if split_devices(model):
        remove_hook_from_module(made, recurse=True)
        del made.hf_device_map
        made = made.to(model.device)
    return made


def _drawn(model: Any) -> Any:
    """A model of the same configuration with random weights."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return type(model)._from_config(config, dtype=torch.float32).to(model.device)


@contextmanager
def _few_tokens(model: Any) -> Iterator[bool]:
    """In this block, leave a model the first of its tokens: logits of all would take most of the
    time.

    Yields whether its vocabulary was found.
    """
    modules = [model.get_input_embeddings(), model.get_output_embeddings()]
    owned = [
        (module, name, parameter)
        for module in modules
        if module is not None
        for name, parameter in module.named_parameters(recurse=False)
    ]
    sizes = {parameter.shape[0] for _, _, parameter in owned}
    if None in modules or len(sizes) != 1 or sizes.pop() <= VOCABULARY:
        yield False
        return
    # What is tied stays tied.
    few = {p: nn.Parameter(p.data[:VOCABULARY], requires_grad=False) for _, _, p in owned}
    for module, name, parameter in owned:
        module._parameters[name] = few[parameter]
    try:
        yield True
    finally:
        for module, name, parameter in owned:
            module._parameters[name] = parameter


@contextmanager
def _first_layers(model: Any) -> Iterator[bool]:
    """In this block, leave a model the fewest of its first layers that include each kind.

    Yields whether its layers were found.
    """
    text = model.config.get_text_config(decoder=True)
    count = text.num_hidden_layers
    decoder = model.get_decoder()
    found = [
        (name, module)
        for name, module in decoder.named_children()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if len(found) != 1:
        yield False
        return
    name, layers = found[0]
    kinds = [_kind(layer) for layer in layers]
    needed = 1 + max(kinds.index(kind) for kind in set(kinds))
    lists = {
        key: value
        for key, value in vars(text).items()
        if isinstance(value, list) and len(value) == count
    }
    decoder._modules[name] = nn.ModuleList(list(layers)[:needed])
    text.num_hidden_layers = needed
    vars(text).update({key: value[:needed] for key, value in lists.items()})
    try:
        yield True
    finally:
        decoder._modules[name] = layers
        text.num_hidden_layers = count
        vars(text).update(lists)


def _kind(layer: nn.Module) -> tuple[Any, ...]:
    """What tells layers apart but for their weights and their place."""
    simple = (bool, int, float, str, type(None))
    described = []
    for name, module in layer.named_modules():
        values = sorted(
            (key, value)
            for key, value in vars(module).items()
            if isinstance(value, simple) and not any(x in key for x in ("idx", "index", "layer_id"))
        )
        described.append((name, type(module).__name__, repr(values)))
    shapes = [(name, tuple(parameter.shape)) for name, parameter in layer.named_parameters()]
    return (*described, *shapes)


def _narrow(made: Any, text: Any) -> None:
    for name in WINDOWS:
        if window(text, name):
            vars(text)[name] = WINDOW
    for module in made.modules():
        for name in WINDOWS:
            if isinstance(vars(module).get(name), int):
                setattr(module, name, WINDOW)


def _size(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
