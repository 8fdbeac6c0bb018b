"""Evaluation: tasks and their figures."""
