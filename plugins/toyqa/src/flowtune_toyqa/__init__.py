"""ToyQA for flowtune: generated multi-hop questions, small enough for a laptop."""
