"""Train, fine-tune, evaluate and ship ViViT."""
