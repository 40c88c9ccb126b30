"""Silences transformers while a model is loaded: no progress bars, no warnings.

But where the logger "flowtune_cli" is enabled for DEBUG, whoever looks wants to see all of it.
"""

from __future__ import annotations

import contextlib
import io
import logging as standard_logging
from collections.abc import Iterator

from transformers.utils import logging


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' logger and progress bars in this block.

    The caller has to check what its warnings would say, such as weights that a model lacks.
    """
    if standard_logging.getLogger("flowtune_cli").isEnabledFor(standard_logging.DEBUG):
        with _talking():
            yield
        return
    verbosity = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        # No setting turns off the bar of reading GGUF. Raised errors are not affected.
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _talking() -> Iterator[None]:
    verbosity = logging.get_verbosity()
    logging.set_verbosity_info()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
