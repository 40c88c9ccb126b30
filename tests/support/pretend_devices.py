"""Devices that do not exist, to find what mixes tensors of several: no GPU is needed.

A tensor of one lies on the processor, says that it is elsewhere, and refuses to be computed with
others, as CUDA's do: but for numbers on the host, and indices there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from accelerate import dispatch_model
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from flowtune_cli.models.split import device_map

KIND = "lazy"
"""A type of device that this torch knows and cannot compute on; autograd runs it in one thread."""

FIRST, SECOND = (torch.device(KIND, number) for number in range(2))

_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
_INDEXED = (
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
)


class _Pretender(Tensor):
    """A tensor on a device that does not exist."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, device: Any, requires_grad: bool = False) -> _Pretender:
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=device,
            requires_grad=requires_grad,
        )
        made.inner = inner
        return made  # type: ignore[no-any-return]

    def tolist(self) -> Any:
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, dict(kwargs or {}))


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    # In inference mode operations come as they were called, made of others or not.
    with _Factories():
        found = func.decompose(*args, **kwargs)
    if found is not NotImplemented:
        return found
    leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    wanted = kwargs.get("device")
    if func not in _COPIES:
        owners = leaves[:1] if func in _INDEXED else leaves
        others = [leaf for leaf in leaves[len(owners) :] if leaf.device.type != "cpu"]
        devices = {x.device for x in [*owners, *others] if x.dim() or x.device.type != "cpu"}
        if len(devices) > 1:
            raise RuntimeError(
                f"{func} found tensors on several devices: {sorted(map(str, devices))}"
            )
    if wanted is None:
        wanted = next((x.device for x in leaves if x.device.type == KIND), torch.device("cpu"))
        if func in _COPIES:
            wanted = leaves[0].device
    if "device" in kwargs:
        kwargs["device"] = torch.device("cpu")
    kwargs.pop("pin_memory", None)
    own = tree_map_only(_Pretender, lambda x: x.inner, (args, kwargs))
    found = func(*own[0], **own[1])
    written = [a.alias_info for a in func._schema.returns if a.alias_info and a.alias_info.is_write]
    if written:
        return args[0]
    if torch.device(wanted).type != KIND:
        return found
    return tree_map_only(Tensor, lambda x: _Pretender(x, wanted), found)


class _Factories(TorchDispatchMode):
    """Lets tensors be made on these devices."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, dict(kwargs or {}))


class _Constants(TorchFunctionMode):
    """``torch.tensor`` makes memory on a device before anyone is asked."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        if func is torch.tensor and device is not None and torch.device(device).type == KIND:
            del kwargs["device"]
            return torch.tensor(*args, **kwargs).to(device)
        return func(*args, **kwargs)


@contextmanager
def pretending() -> Iterator[None]:
    """In this block these devices are there."""
    # Gradient checkpointing wants a module of their kind, and asks it for nothing.
    there = patch.object(torch, KIND, SimpleNamespace(), create=True)
    # A conversion in place would change what a tensor says, and not what it holds.
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with there, _Constants(), _Factories():
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)


def split(model: Any, *devices: torch.device) -> Any:
    """Split a model over devices that do not exist, by accelerate, as transformers loads one."""
    where = device_map(model, devices)
    for name, device in where.items():
        _move(model.get_submodule(name), device)
    model.tie_weights()
    dispatch_model(model, where, skip_keys=model._skip_keys_device_placement)
    return model


def _move(module: torch.nn.Module, device: str) -> None:
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and parameter.device.type == "cpu":
                moved = _Pretender(parameter.detach(), device)
                part._parameters[name] = torch.nn.Parameter(moved, requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None and buffer.device.type == "cpu":
                part._buffers[name] = _Pretender(buffer, device)
