"""Tiny random models of the architectures that transformers has, for what must hold of each."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .device import DEVICE

SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embed_dim", "word_embed_proj_dim"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"), 96),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("block_ff_dim", "ffn_intermediate_size", "d_ff"), 96),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 256),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(
        ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k_experts"), 2
    ),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "num_shared_experts"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size", "time_step_rank"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "mamba_dt_rank"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 16),
    "moe_num_experts": 4,
    "moe_k": 2,
    "vocab_size": 320,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "qk_head_dim": 16,
    "v_head_dim": 12,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "mamba_d_ssm": 128,
    "mamba_expand": 2,
    "mamba_n_groups": 1,
    "embedding_size": 64,
    "attention_hidden_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Small sizes by the names that configurations give them; each is set where there is one."""

HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
LATENT = {"head_dim": 8, "num_key_value_heads": 4}
"""Multi-head latent attention, whose values are narrower than its keys."""

SPECIAL: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "codegen": {"rotary_dim": 8},
    "deepseek_v2": {**LATENT, "num_experts_per_tok": 2},
    "deepseek_v3": LATENT,
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "falcon": {"head_dim": None},
    "gemma2": {"sliding_window": 8},
    "gemma3_text": {"sliding_window": 8},
    "glm4_moe_lite": LATENT,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "sliding_window": 8,
        "vocab_size_per_layer_input": 320,
        "hidden_size_per_layer_input": 8,
        "activation_sparsity_pattern": [0.0] * 4,
        "laurel_rank": 8,
        "altup_num_inputs": 2,
    },
    "gemma4_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 8,
        "head_dim": 16,
        "global_head_dim": 32,
        "vocab_size_per_layer_input": 320,
        "hidden_size_per_layer_input": 8,
    },
    "gptj": {"rotary_dim": 8},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2},
    "kimi_linear": {
        **HYBRID,
        "mlp_layer_types": ["dense", "dense"],
        "linear_num_heads": 4,
        "linear_head_dim": 16,
        **LATENT,
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": LATENT,
    "minicpm3": LATENT,
    "ministral": {"head_dim": 16},
    "mistral": {"sliding_window": 8},
    "nemotron": {"head_dim": 16, "num_key_value_heads": 2},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 1},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "sliding_window": 8},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"]},
    "qwen3_5_text": HYBRID,
    "qwen3_5_moe_text": HYBRID,
    "qwen3_next": HYBRID,
    "starcoder2": {"sliding_window": 8},
    "youtu": LATENT,
}
"""What else a configuration needs, to be small and have each kind of layer."""

ALIASES = {"phi3-longrope": "phi3", "falcon-alibi": "falcon", "mistral-wide": "mistral"}
"""Further models by names of their own: an architecture with other settings."""

SPECIAL["mistral-wide"] = {"sliding_window": 4096}
SPECIAL["falcon-alibi"] = {"head_dim": None, "alibi": True}
SPECIAL["phi3-longrope"] = {
    "sliding_window": 256,
    "original_max_position_embeddings": 32,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 32,
        "short_factor": [1.0] * 8,
        "long_factor": [1.0 + 0.5 * place for place in range(8)],
    },
}

MOST_PARAMETERS = 5_000_000


def architectures() -> list[str]:
    """The model types that transformers has a causal language model for, and the aliases."""
    return sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *ALIASES})


def make_architecture(
    name: str, *, dtype: torch.dtype = torch.float32, device: str = DEVICE, **more: Any
) -> Any:
    """A random model of 2 layers, whose weights are large enough to tell texts apart.

    Args:
        more: settings of its configuration.

    Raises:
        NotImplementedError: no small configuration of it is known here.
    """
    kind = CONFIG_MAPPING[ALIASES.get(name, name)]
    try:
        text = kind().get_text_config(decoder=True)
        sizes = {key: value for key, value in SIZES.items() if _has(text, key)}
        sizes.update({**SPECIAL.get(name, {}), **more})
        config = type(text)(**{key: value for key, value in sizes.items() if value is not None})
        with torch.device("meta"):
            size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
        if size > MOST_PARAMETERS:
            raise ValueError(f"{size} parameters")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.data.normal_(0, 0.15)
            model = model.eval().requires_grad_(False).to(device)
            model(input_ids=torch.tensor([[5, 6, 7, 8, 9]], device=device))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise NotImplementedError(f"{type(error).__name__}: {reason}") from error
    return model


def _has(config: Any, key: str) -> bool:
    try:
        return getattr(config, key, None) is not None
    except Exception:
        # A setting that differs from layer to layer.
        return False
