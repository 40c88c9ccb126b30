"""Reports on paper: a run's figures, plots and preferences on one page. Reads ``runs`` alone."""
