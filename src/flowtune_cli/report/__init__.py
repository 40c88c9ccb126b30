"""``flowtune report``: a run's curves, nodes, preferences and settings as one HTML page."""
