"""Timelines: what a long video shows, and when."""
