"""The local engine: batched decoding and scoring with the nodes' adapters. Needs torch."""

from .. import models as models  # silences libraries' start-up notices
