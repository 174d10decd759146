"""The model: configuration, checkpoint, and the backends that run it."""
