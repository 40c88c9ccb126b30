"""How long the threads of torch wait for each other at work before they sleep."""

from __future__ import annotations

import os

_SPINS = "2000"
"""Looks at a flag before a thread sleeps: about 100 microseconds, which most gaps between the
products of a forward pass are shorter than."""

_OWN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""By which users say it themselves."""


def spin_briefly() -> None:
    """Have OpenMP's threads sleep soon where one of them waits for another.

    They share out each operation and wait for the slowest. By default those of GNU's OpenMP, which
    torch brings for Linux, look at a flag for milliseconds on end: while another program has the
    core of one thread, the others take up cores for nothing. Child processes inherit what is set
    here. It must be called before torch is imported.
    """
    if not any(name in os.environ for name in _OWN):
        os.environ["GOMP_SPINCOUNT"] = _SPINS
