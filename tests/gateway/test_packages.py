"""Where the extra is not installed, the error says so; what needs no client does not load it."""

from __future__ import annotations

import subprocess
import sys

import pytest


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("package", ["httpx2", "openai", "starlette", "uvicorn"])
def test_the_extra_is_named(package: str) -> None:
    shown = python(
        f"import sys; sys.modules['{package}'] = None\n"
        "from flowtune_cli.flow.errors import UsageError\n"
        "try:\n    import flowtune_cli.gateway.server\n"
        "except UsageError as error:\n    print('usage:', error)"
    )
    assert shown == (
        f"usage: a program on the openai client needs the package {package}:"
        " pip install 'flowtune[gateway]'\n"
    )


def test_the_server_needs_neither_torch_nor_the_client() -> None:
    shown = python(
        "import sys, flowtune_cli.gateway.server\n"
        "print([name for name in ('torch', 'transformers', 'openai') if name in sys.modules])"
    )
    assert shown == "[]\n"
