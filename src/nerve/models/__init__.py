"""A model folder becomes a loaded, proven and warm model."""
