"""The OpenAI-compatible door: programs on the ``openai`` client call the nodes of an episode."""
