"""The base model: files, loading, device and dtype, memory, chat templates, tokens. Needs torch."""

import logging
import warnings

# Notices at every start that a user can do nothing about. PEFT imports bitsandbytes.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
