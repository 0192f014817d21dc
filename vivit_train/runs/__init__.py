"""What a run leaves on disk: its folder, checkpoints and scores, and finding them again."""
