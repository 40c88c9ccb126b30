"""Workshop: a plugin that brings one of each thing, from the public API alone."""
