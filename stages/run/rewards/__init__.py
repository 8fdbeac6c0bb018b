"""Rewards of a run: functions by name, how they are called, and what identifies them."""
