"""What a run has learned, in folders that other programs use without flowtune."""
