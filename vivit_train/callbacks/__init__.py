"""What happens around the training step: draws, checkpoints, averages, stopping, figures."""
