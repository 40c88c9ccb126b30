"""Run directories: the store, its reader, prediction files and exports."""
