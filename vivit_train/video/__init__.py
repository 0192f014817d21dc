"""Decoding, frame sampling and writing of video; knows nothing of models or training."""
