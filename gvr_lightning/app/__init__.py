"""The commands: a run, its parts, and what else the command line does."""
