"""The command line before anything runs: where the configs lie, what is right, what help says. Imports no torch."""
