"""The base model with its adapters: batched decoding and scoring. Needs torch."""
