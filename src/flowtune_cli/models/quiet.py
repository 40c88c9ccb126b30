"""Keeps transformers from talking while a model is loaded: no progress bars, no warnings."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

from transformers.utils import logging


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' logger and progress bars inside, and restore both after.

    What matters in its warnings, such as weights that a model lacks, the caller has to check.
    """
    verbosity = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        # Reading GGUF draws a bar that no setting turns off; a raised error loses nothing here.
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
