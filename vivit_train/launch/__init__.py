"""The processes of a run: how they start and end, their devices, how they share weights."""
