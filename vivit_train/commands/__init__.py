"""The verbs of the `vivit` command, one file each."""
