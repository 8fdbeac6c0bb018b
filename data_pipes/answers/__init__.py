"""Answers: how a completion is compared with the right one, and scored by a function."""
