"""What happens round the training: checkpoints, interruption, progress, diagnostics."""
