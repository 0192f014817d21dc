"""How a run is trained where nothing was said: fitted to the set and to pretrained weights."""
