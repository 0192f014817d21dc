"""The verbs of the `vivit` command, one file each."""

# What the verbs' help says of the argument that names a model.
CHECKPOINT = "a run, a checkpoint, an exported or Hugging Face folder, a hub id"
