"""``flowtune inspect``: a terminal application that reads runs, and writes none."""
