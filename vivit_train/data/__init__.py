"""Data sets, sampling order and Lightning DataModules."""
