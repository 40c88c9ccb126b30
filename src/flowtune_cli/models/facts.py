"""What another program needs to know of a base model to read and write texts as flowtune does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig, GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from ..config.settings import ModelSettings
from .chat import load_tokenizer, source_of
from .chat_template import TextOptions
from .digest import weights_digest
from .quiet import quiet
from .skeleton import cannot_load, context_of
from .tokens import Tokens

if TYPE_CHECKING:
    from ..registry import Registry

_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


def base_model(settings: ModelSettings, registry: Registry) -> dict[str, Any]:
    """Which model it is; nothing of its weights is loaded.

    Raises:
        UsageError: its configuration cannot be read.
    """
    source, options = source_of(settings, registry)
    config = _config(source, options, settings.name)
    gguf = options.get("gguf_file")
    local = Path(source) if isinstance(source, Path) else _cached(settings)
    hub = not isinstance(source, Path)
    return {
        "name": settings.name,
        "loaded_from": str(source),
        "gguf_file": gguf,
        "revision": settings.revision,
        "commit": local.name if hub and local is not None else None,
        "sha256": None if local is None else weights_digest(local / gguf if gguf else local),
        "dtype": settings.dtype,
        "quantization": _quantization(config, settings),
        "context": context_of(config, settings),
        "cache_continues": _cache_continues(config),
    }


def texts(settings: ModelSettings, registry: Registry) -> tuple[dict[str, Any], str]:
    """How texts become tokens, and the chat template; the latter is empty if there is none.

    Raises:
        UsageError: the tokenizer or its template cannot be used.
    """
    source, options = source_of(settings, registry)
    tokenizer = load_tokenizer(settings, registry)
    tokens = Tokens(tokenizer, context=0, options=TextOptions.of(settings))
    template, controls = tokens.template, tokens.controls
    ends = {tokenizer.eos_token_id, tokens.end_of_turn, *_ends(source, options, settings.name)}
    facts = {
        "chat_template": {
            "file": "chat_template.jinja",
            "name": settings.chat_template,
            "options": template.options,
            "date": None if template.date is None else template.date.isoformat(),
            "system": template.has_system,
            "tools": template.shows_tools,
            "tool_arguments": template.tool_arguments,
        }
        if template.source
        else None,
        "tokens": {
            "begin": list(tokens.begin),
            "end": sorted(ends - {None}),
            "end_of_turn": tokens.end_of_turn,
            "end_of_text": tokenizer.eos_token_id,
            "empty": tokens.empty,
            "lead": tokens.seam.lead,
            "control": list(controls.ids),
            "special": list(controls.special),
            "special_in_text": settings.special_tokens_in_text,
        },
    }
    return facts, template.standalone()


def _config(source: str | Path, options: dict[str, Any], name: str) -> Any:
    try:
        with quiet():
            return AutoConfig.from_pretrained(source, **options)
    except Exception as error:
        raise cannot_load(name, error) from error


def _quantization(config: Any, settings: ModelSettings) -> str:
    """What the weights are quantised by, by the settings or before; "none" if they are not."""
    before = getattr(config, "quantization_config", None)
    if not before:
        return settings.quantization
    about = before if isinstance(before, dict) else before.to_dict()
    return str(about.get("quant_method", "unknown"))


def _ends(source: str | Path, options: dict[str, Any], name: str) -> set[int]:
    """The tokens that end an output by the model's own files."""
    try:
        with quiet():
            found = GenerationConfig.from_pretrained(
                source, **{k: v for k, v in options.items() if k == "revision"}
            )
    except OSError:
        found = GenerationConfig.from_model_config(_config(source, options, name))
    ends = found.eos_token_id
    return set(ends) if isinstance(ends, (list, tuple)) else {ends}


def _cached(settings: ModelSettings) -> Path | None:
    """The snapshot of a Hugging Face id on this machine; None if there is none."""
    found = try_to_load_from_cache(settings.name, "config.json", revision=settings.revision)
    return Path(found).parent if isinstance(found, str) else None


def _cache_continues(config: Any) -> bool:
    """Whether what the model keeps of a text can be gone on from by several tokens at once.

    It can where layers keep keys and values alone, and not where they keep a state.
    """
    text = config.get_text_config(decoder=True)
    kinds = set(getattr(text, "layer_types", None) or ())
    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    stateful = known and MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]._is_stateful
    return known and not stateful and kinds <= _ATTENTION
