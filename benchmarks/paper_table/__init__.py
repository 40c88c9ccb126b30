"""The paper's table: untrained, trained, grounded, pairwise, trained on dev."""
