"""Modules that every child process needs, loaded once in the fork server."""

from __future__ import annotations
