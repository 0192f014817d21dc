"""Where and when a model looked: its attention rolled out, and laid over the frames of a video."""
