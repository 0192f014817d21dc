"""What happens around the training step: random draws, checkpoints, broken videos."""
