"""A digest of a local model's weights, by which a run knows its model again where it was moved."""

from __future__ import annotations

import hashlib
from pathlib import Path

_BLOCKS, _BYTES = 256, 4096
_OF_TEXTS = (
    "tokenizer*",
    "*.jinja",
    "additional_chat_templates/*.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "generation_config.json",
)


def texts_digest(model: Path) -> str | None:
    """The SHA-256 of the files that say how texts become tokens; None if there are none.

    Args:
        model: a directory; what a GGUF file says of it is among its weights.
    """
    found = {path for pattern in _OF_TEXTS for path in model.glob(pattern) if path.is_file()}
    if not found:
        return None
    digest = hashlib.sha256()
    for path in sorted(found):
        digest.update(f"{path.relative_to(model)}\0".encode("utf-8", "surrogatepass"))
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def weights_digest(model: Path) -> str | None:
    """The SHA-256 of samples of the weights; None if there are none.

    Each file's size counts, and 256 blocks of 4 KiB spread over it: all of a small file, and of a
    large one enough to tell two trainings apart, within a tenth of a second. A large file that was
    edited in a single place may go unnoticed.

    Args:
        model: a directory with safetensors, or a GGUF file.
    """
    files = [model] if model.is_file() else sorted(model.glob("*.safetensors"))
    if not files:
        return None
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            for block in range(_BLOCKS):
                file.seek(block * max(size - _BYTES, 0) // (_BLOCKS - 1))
                digest.update(file.read(_BYTES))
    return digest.hexdigest()
