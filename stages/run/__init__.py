"""A run: from options to a trained model, with its log, checkpoints and validation."""
