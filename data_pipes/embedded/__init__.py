"""Embedded data: a corpus, tasks, lessons and questions, made here so that nothing is downloaded."""
