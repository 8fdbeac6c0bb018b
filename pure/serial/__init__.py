"""Serialization: pytrees to Flax's msgpack bytes, and back."""
