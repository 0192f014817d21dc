"""Sweeps: many trainings with different settings, here or on a cluster."""
