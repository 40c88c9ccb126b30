"""The online loop: play, deviate, prefer, update; progressive validation; checkpoints."""
