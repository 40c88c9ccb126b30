"""The conversion: the GGUF's weights, configuration and tokenizer as transformers loads them best.

GGUF with 4-bit weights (Q4_1) takes transformers 10 to 30 s to read. The same weights as float32
safetensors, equal to the bit (bfloat16 could not hold them), load within a second.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging


def convert(gguf: Path, directory: Path) -> None:
    """Write the model in ``gguf`` into ``directory``, which exists."""
    with _quiet():
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    weights = {n: w.contiguous() for n, w in model.state_dict().items() if n != "lm_head.weight"}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    # The output layer is the embedding matrix: the configuration says so, and it is stored once.
    # "quantization_config" would say that the file is GGUF, which save_pretrained refuses.
    configuration = model.config.to_dict()
    del configuration["quantization_config"]
    type(model.config).from_dict(configuration).save_pretrained(directory)
    model.generation_config.save_pretrained(directory)
    # The GGUF names its pre-tokenizer "smollm": digits one by one, then as GPT-2. transformers
    # reads it as GPT-2 alone, which splits "  5" in another way than the model was trained on.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.save_pretrained(directory)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings of transformers, nor the bar that it draws while it reads GGUF."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
