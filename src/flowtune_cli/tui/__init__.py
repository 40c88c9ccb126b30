"""``flowtune inspect``: a read-only terminal application that shows runs."""
