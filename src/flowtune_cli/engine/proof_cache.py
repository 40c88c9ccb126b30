"""Remembers how models are run, so that one is proved once: see ``proof``."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from ..config.settings import AdapterSettings
from ..models.devices import dtype_name
from ..models.split import split_devices
from .packing import Ids
from .paths import Paths
from .proof import Proved, prove
from .remembered import proofs_directory


def proved(
    model: Any,
    name: str,
    settings: AdapterSettings,
    context: int,
    texts: Sequence[Ids] = (),
    *,
    on_proof: Callable[[], None] = lambda: None,
) -> Proved:
    """As ``prove``, from the cache where the same model was proved before.

    The same are the weights, the dtype, the device, whether it is deterministic, the adapter's
    layers, the context, the versions of the libraries and this code. What is done without, and why,
    is said once, on stderr.

    Args:
        name: of the model, for people.
        on_proof: called where it has to be proved, which takes a while.
    """
    file = proofs_directory() / f"{_digest(model, settings, context)}.json"
    found = _read(file)
    if found is None:
        on_proof()
        found = prove(model, settings, context, texts)
        _write(file, found, f"{name} ({dtype_name(model.dtype)} on {_device(model)})")
        for line in found.found:
            print(f"{name}: {line}", file=sys.stderr)
    return found


def _digest(model: Any, settings: AdapterSettings, context: int) -> str:
    digest = hashlib.sha256()
    code = Path(__file__).parent
    for file in sorted(code.glob("*.py")):
        digest.update(file.read_bytes())
    about = [
        torch.__version__,
        transformers.__version__,
        peft.__version__,
        _device(model),
        str(model.dtype),
        torch.are_deterministic_algorithms_enabled(),
        settings.model_dump(mode="json"),
        context,
        type(model).__name__,
        model.config.to_json_string(use_diff=False),
    ]
    digest.update(json.dumps(about).encode())
    # The first weights of each tensor: reading all of a large model would take long.
    for name, tensor in model.state_dict().items():
        first = tensor.flatten()[:8].to("cpu", torch.float64).tolist()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {first}".encode())
    return digest.hexdigest()


def _device(model: Any) -> str:
    device = torch.device(model.device)
    if device.type == "cuda":
        names = [torch.cuda.get_device_name(each) for each in split_devices(model) or [device]]
        return " and ".join(names)
    return f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def _read(file: Path) -> Proved | None:
    try:
        content = json.loads(file.read_text())
        return Proved(Paths(**content["paths"]), tuple(content["found"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(file: Path, found: Proved, model: str) -> None:
    """A cache that cannot be written costs a proof at each start, and nothing else."""
    content = {
        "model": model,
        "text": found.paths.text,
        "paths": found.paths.to_json(),
        "found": found.found,
    }
    temporary = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(content) + "\n")
        temporary.replace(file)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
