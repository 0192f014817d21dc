"""What is looked at before a run: data, settings, loss, speed, and what the weights know."""
