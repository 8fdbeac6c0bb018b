"""Checkpoints: a training state on disk."""
