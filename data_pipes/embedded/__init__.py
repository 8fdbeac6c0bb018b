"""Embedded data: documents of Python's library, tasks, rows for tuning and a quiz; nothing is downloaded."""
