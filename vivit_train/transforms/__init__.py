"""Pixels on the device: the image processor and augmentation."""
