"""How adapters learn: losses, optimizers, references. Needs torch."""
