"""SmolLM2-135M-Instruct for flowtune: a model small enough to try everything without a GPU."""
