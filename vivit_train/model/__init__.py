"""ViViT: the model, its position embeddings and the import of foreign weights."""
