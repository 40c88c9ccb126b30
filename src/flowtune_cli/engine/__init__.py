"""The base model with its adapters: batched decoding and scoring. Needs torch."""

import logging
import warnings

# What libraries say at every start, and nobody can do anything about. PEFT imports bitsandbytes.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
