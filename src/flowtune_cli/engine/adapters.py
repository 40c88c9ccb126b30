"""The adapters: LoRAs that nodes have, each with a reference LoRA, on the shared base model.

A node has an adapter of its own, by its name, or shares another node's. A reference is an adapter
of its own, never "adapters off", so that training that starts from a trained checkpoint is
regularised towards that checkpoint. A node with a head (see ``Score``) has a reference copy of the
head, too; heads are never shared.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..config.settings import AdapterSettings
from ..flow.errors import FlowtuneError, UsageError
from ..models.targets import linear_layers, peft_targets, resolve_targets
from .adapter_mask import AdapterMask
from .head import Head
from .stored_adapters import (
    FILE,
    REFERENCE,
    StoredNode,
    extra_json,
    reference_of,
    stored_nodes,
    stored_version,
)


def _key(name: str) -> str:
    """The adapter's name in PEFT, which mishandles names that are part of its own, such as 'a'."""
    return f"adapter-{name}"


class Adapters:
    """All adapters and reference adapters on one base model.

    Args:
        model: the base model; its weights are frozen.
        heads: each node that has an adapter, with its head's initial parameters.
        settings: rank, scaling and targets of the adapters.
        seed: of the initial weights; an adapter's depend on the seed and its name alone.
        shares: nodes that use the adapter of another, with that node's name.

    Attributes:
        nodes: the nodes that have an adapter.
        names: the adapters, each by the name of the node that owns it.
        owners: by node, the adapter that it uses.
        heads: by node, and by ``reference_of`` it.
    """

    def __init__(
        self,
        model: nn.Module,
        heads: Mapping[str, Mapping[str, float]],
        settings: AdapterSettings,
        seed: int,
        shares: Mapping[str, str] | None = None,
    ) -> None:
        self.nodes = tuple(heads)
        self.owners = {node: (shares or {}).get(node, node) for node in heads}
        self.names = tuple(dict.fromkeys(self.owners.values()))
        self.versions: dict[str, int] = {}
        self.heads: dict[str, Head] = {}
        self.peft: PeftModel | None = None
        self.model: Any = model
        targets = resolve_targets(model, settings.targets)
        layers = [m for name, m in linear_layers(model).items() if name.split(".")[-1] in targets]
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]
            use_rslora=settings.rslora,
            target_modules=peft_targets(model, targets),
            # GPT-2's layers store their weights the other way round.
            fan_in_fan_out=bool(layers) and all(isinstance(m, Conv1D) for m in layers),
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
        )
        for node, initial in heads.items():
            if not node or set(node) & set("./\\") or node.startswith(REFERENCE):
                raise UsageError(
                    f"node name {node!r}: a name is not empty, has no dot or slash, and does not"
                    f" begin with '{REFERENCE}'"
                )
            if initial:
                self.heads[node], self.heads[reference_of(node)] = Head(initial), Head(initial)
        for adapter in self.names:
            for name in (adapter, reference_of(adapter)):
                self._add(name, copy.deepcopy(config), seed)
                self.versions[name] = 0
        if self.peft is not None:
            self.model = self.peft.base_model.model
        self._layers = [m for m in self.model.modules() if isinstance(m, LoraLayer)]
        self.mask = AdapterMask(self.model, self._layers)
        self._parameters = {name: list(self._named(name)) for name in self.versions}
        for name in self.names:
            for parameter in self._parameters[name]:
                parameter.requires_grad_(True)
            for parameter in self._parameters[reference_of(name)]:
                parameter.requires_grad_(False)
            self.copy(name, reference_of(name))
            self.versions[reference_of(name)] = 0
        self.activate(None)

    def _add(self, name: str, config: LoraConfig, seed: int) -> None:
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
            if self.peft is None:
                self.peft = get_peft_model(self.model, config, adapter_name=_key(name))  # type: ignore
            else:
                self.peft.add_adapter(_key(name), config)

    def remove(self) -> None:
        """Leave the base model as it was before."""
        assert self.peft is not None
        self.mask.remove()
        self.peft.unload()
        # Else PEFT warns of a second time.
        vars(self.model).pop("peft_config", None)

    def _named(self, name: str) -> Iterator[nn.Parameter]:
        for layer in self._layers:
            for part in (layer.lora_A, layer.lora_B):
                if _key(name) in part:
                    yield part[_key(name)].weight
        for head in self._heads_of(name).values():
            if head is not None:
                yield head.weights

    def _heads_of(self, name: str) -> dict[str, Head | None]:
        """The heads of an adapter's nodes, or of a reference's, by the node."""
        prefix = REFERENCE if name.startswith(REFERENCE) else ""
        nodes = self.nodes_of(name.removeprefix(REFERENCE))
        return {node: self.heads.get(prefix + node) for node in nodes}

    def nodes_of(self, name: str) -> list[str]:
        """The nodes that use an adapter, in their order."""
        return [node for node, owner in self.owners.items() if owner == name]

    def parameters(self, name: str) -> list[nn.Parameter]:
        """An adapter's weights, then those of its nodes' heads."""
        return self._parameters[name]

    def weights(self, name: str) -> list[nn.Parameter]:
        """An adapter's weights alone."""
        heads = sum(head is not None for head in self._heads_of(name).values())
        return self._parameters[name][: len(self._parameters[name]) - heads]

    def activate(self, name: str | None) -> None:
        """Use this adapter in the following forward passes; None is the base model alone."""
        for layer in self._layers:
            layer._disable_adapters = name is None
            if name is not None:
                layer._active_adapter = [_key(name)]

    @contextmanager
    def using(self, name: str | None, frozen_length: int = 0) -> Iterator[Any]:
        """The base model, with this adapter active inside the block.

        Args:
            frozen_length: how many tokens at the beginning of each row the adapter leaves to the
                base model, in passes that read rows from there on; see ``AdapterMask``.
        """
        self.activate(name)
        try:
            with self.mask.hiding(frozen_length):
                yield self.model
        finally:
            self.activate(None)

    def version(self, name: str | None) -> int:
        """How many updates an adapter has had; 0 for the base model."""
        return 0 if name is None else self.versions[name]

    def head(self, node: str | None) -> dict[str, float]:
        """The parameters of a node's head by name; empty if it has none."""
        return self.heads[node].values() if node in self.heads else {}

    @torch.no_grad()
    def copy(self, source: str, target: str) -> None:
        """Make ``target`` equal to ``source``."""
        self.move(target, source, 1.0)

    @torch.no_grad()
    def move(self, name: str, towards: str, weight: float) -> None:
        """Interpolate an adapter's weights: ``(1 - weight) * own + weight * other``."""
        for own, other in zip(self.parameters(name), self.parameters(towards), strict=True):
            if weight == 1.0:
                own.copy_(other)
            else:
                own.lerp_(other, weight)
        self.versions[name] += 1

    def distance(self, name: str) -> float:
        """How far an adapter has drifted from its reference (Euclidean norm of weights)."""
        pairs = zip(self.parameters(name), self.parameters(reference_of(name)), strict=True)
        squares = [(a.detach() - b.detach()).double().square().sum() for a, b in pairs]
        # The device is waited for once, not for each layer; heads and some layers are on others.
        together = torch.stack([square.to(squares[0].device) for square in squares])
        return float(sum(together.tolist()) ** 0.5)

    def save(self, directory: Path) -> None:
        """Write every adapter, each to ``directory/NAME/``, in the format that PEFT reads."""
        for name in self.versions:
            self.write(name, directory / name)

    def write(self, name: str, target: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write one adapter to a new directory, in the format that PEFT reads.

        Args:
            state: other weights, in the place of its own.
        """
        target.mkdir(parents=True)
        assert self.peft is not None
        state = self._state(name) if state is None else state
        save_file(
            {key: value.detach().cpu().contiguous() for key, value in state.items()},
            target / "adapter_model.safetensors",
            metadata={"format": "pt"},
        )
        config = copy.copy(self.peft.peft_config[_key(name)])
        # PEFT holds them in a set, whose order differs from process to process.
        if not isinstance(config.target_modules, str):
            config.target_modules = sorted(config.target_modules)
        config.save_pretrained(str(target))
        heads = {n: head.values() if head else {} for n, head in self._heads_of(name).items()}
        own = name.removeprefix(REFERENCE)
        (target / FILE).write_text(extra_json(own, self.versions[name], heads))

    def state(self, name: str) -> dict[str, Tensor]:
        """A copy of an adapter's weights, by the names that PEFT gives them in a file."""
        return {key: value.detach().clone() for key, value in self._state(name).items()}

    def set_state(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Replace an adapter's weights by others, named as in ``state``."""
        assert self.peft is not None
        set_peft_model_state_dict(self.peft, dict(state), adapter_name=_key(name))

    def config(self, name: str) -> LoraConfig:
        """PEFT's configuration of an adapter."""
        assert self.peft is not None
        config = self.peft.peft_config[_key(name)]
        assert isinstance(config, LoraConfig)
        return config

    def _state(self, name: str) -> dict[str, Tensor]:
        """An adapter's weights by the names that PEFT gives them in a file."""
        assert self.peft is not None
        state: dict[str, Tensor] = get_peft_model_state_dict(
            self.peft, adapter_name=_key(name), save_embedding_layers=False
        )
        return state

    @torch.no_grad()
    def load(
        self,
        directory: Path,
        *,
        reset_references: bool = False,
        taken: Mapping[str, str] | None = None,
    ) -> None:
        """Read what ``save`` wrote.

        Args:
            reset_references: set every reference to its trained adapter.
            taken: which nodes there are the nodes here; an adapter whose owner is not among them,
                and a head of a node that is not, stays as it is. None: all are, by their names.

        Raises:
            UsageError: an adapter is missing there, cannot be read, has another shape, or holds a
                value that is not a number.
        """
        stored = stored_nodes(directory)
        nodes = {node: node for node in self.nodes} if taken is None else taken
        for name in self.names:
            if name not in nodes:
                continue
            there = stored.get(nodes[name], StoredNode(nodes[name])).adapter
            self._load_weights(name, directory / there)
            self._load_weights(reference_of(name), directory / reference_of(there))
            for node in self.nodes_of(name):
                if node in nodes:
                    self._load_head(node, stored.get(nodes[node], StoredNode(there)), directory)
            for own, source in ((name, there), (reference_of(name), reference_of(there))):
                if not self.is_finite(own):
                    raise UsageError(
                        f"the adapter in {directory / source} holds values that are not numbers"
                    )
            if reset_references:
                self.copy(name, reference_of(name))

    def _load_weights(self, name: str, source: Path) -> None:
        try:
            state = load_file(source / "adapter_model.safetensors")
            version = stored_version(source)
        except FileNotFoundError as error:
            raise UsageError(
                f"{source.parent} has no adapter '{source.name}' ({error.filename} is missing); was"
                " it trained with another task or other nodes, or did the node learn nothing then?"
            ) from None
        except (OSError, ValueError, SafetensorError) as error:
            raise UsageError(f"the adapter in {source} cannot be read: {error}") from error
        assert self.peft is not None
        lacking = sorted(self._state(name).keys() - state.keys())
        try:
            outcome = set_peft_model_state_dict(self.peft, state, adapter_name=_key(name))
        except RuntimeError as error:
            raise UsageError(
                f"the adapter in {source} does not fit: was it trained with another base model,"
                f" rank or targets? {error}"
            ) from None
        if outcome.unexpected_keys:
            raise UsageError(
                f"the adapter in {source} has weights for layers that are not adapted here:"
                f" {outcome.unexpected_keys[0]} ..."
            )
        if lacking:
            raise UsageError(
                f"the adapter in {source} lacks weights for layers that are adapted here:"
                f" {lacking[0]} ..."
            )
        self.versions[name] = version

    def _load_head(self, node: str, stored: StoredNode, directory: Path) -> None:
        for name, head in ((node, stored.head), (reference_of(node), stored.reference_head)):
            source = f"the adapter in {directory / stored.adapter}"
            if name in self.heads:
                self.heads[name].load(head, source)
            elif head:
                raise UsageError(
                    f"{source} has a head ({', '.join(head)}), and its node has none now"
                )

    def check_finite(self, names: Sequence[str]) -> None:
        """Raise if an adapter holds a value that is not a number."""
        for name in names:
            if not self.is_finite(name):
                raise FlowtuneError(f"the adapter of node '{name}' is no longer finite")

    def is_finite(self, name: str) -> bool:
        """Whether all weights of an adapter are numbers."""
        # One figure for all weights, as each one read would wait for the device.
        largest = torch.nn.utils.get_total_norm(
            [p.detach() for p in self.parameters(name)], norm_type=math.inf
        )
        return math.isfinite(float(largest))
