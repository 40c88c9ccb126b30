"""Nodes that other models play: an endpoint of another server, or a model beside the base model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from typing import Any

from ..config.settings import AdapterSettings, ModelSettings
from ..engine.adapters import Adapters
from ..engine.blocked_weights import block_weights
from ..engine.engine import ModelEngine
from ..engine.limits import Limits
from ..engine.proof import real_texts
from ..engine.proof_cache import proved
from ..flow.endpoint import Endpoint, Spent
from ..flow.errors import UsageError
from ..flow.node import Node
from ..models.chat_template import TextOptions
from ..models.determinism import naming_the_setting
from ..models.loading import LoadedModel, load_model

_LIKE_THE_BASE = (
    "dtype",
    "quantization",
    "device",
    "devices",
    "date",
    "context",
    "trust_remote_code",
)


def play_elsewhere(nodes: Iterable[Node]) -> None:
    """Let the endpoints that nodes declare answer their requests.

    Raises:
        UsageError: a key is not in the environment, or a package is missing.
    """
    for node in nodes:
        if node.model is None or isinstance(node.model, str):
            continue
        from ..gateway.endpoint import EndpointModel

        endpoint = Endpoint.of(node.model)
        try:
            endpoint.secret()
        except UsageError as error:
            raise UsageError(f"node '{node.name}': {error}") from None
        node.elsewhere = EndpointModel(endpoint)


def load_others(nodes: Iterable[Node], settings: ModelSettings, registry: Any) -> list[LoadedModel]:
    """Load the models that nodes name, each once: as the base model is, on its devices.

    What the settings say of the base model's own files (revision, chat template and its options)
    does not count for them.

    Raises:
        UsageError: see ``load_model``; names the node.
    """
    alike = {name: getattr(settings, name) for name in _LIKE_THE_BASE}
    found: dict[str, LoadedModel] = {}
    for node in nodes:
        name = node.other_model
        if name is None or name in found:
            continue
        if name == settings.name:
            raise UsageError(
                f"node '{node.name}': its model, {name}, is the base model: set adapter = 'none'"
                " instead, which plays it as it is"
            )
        try:
            found[name] = load_model(ModelSettings(name=name, **alike), registry)
        except UsageError as error:
            raise UsageError(f"the model of node '{node.name}': {error}") from error
    return list(found.values())


def engine_of(loaded: LoadedModel, settings: ModelSettings) -> ModelEngine:
    """An engine of a model without adapters, as the engine proves that it can be run."""
    plain = AdapterSettings()
    texts = list(real_texts(lambda text: loaded.tokenizer(text)["input_ids"]))
    with naming_the_setting():
        paths = proved(loaded.model, loaded.name, plain, loaded.context, texts).paths
    block_weights(loaded.model)
    return ModelEngine(
        Adapters(loaded.model, {}, plain, 0),
        loaded.tokenizer,
        loaded.context,
        Limits.for_model(loaded.model),
        loaded.model_context,
        TextOptions.of(ModelSettings(date=settings.date)),
        paths,
    )


def all_spent(nodes: Iterable[Node]) -> Spent:
    """What this process has asked of endpoints, all nodes together."""
    spent = (node.elsewhere.spent for node in nodes if node.elsewhere is not None)
    return reduce(Spent.plus, spent, Spent())


def spent_elsewhere(nodes: Iterable[Node]) -> Iterator[str]:
    """What this process has asked of endpoints, a line for each node that one plays."""
    for node in nodes:
        if node.elsewhere is not None and node.elsewhere.spent.requests:
            yield f"node '{node.name}' asked {node.elsewhere.name}: {node.elsewhere.spent}"
