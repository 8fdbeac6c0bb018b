"""Modules that every child process needs, loaded once in the fork server."""

from __future__ import annotations

import stages.checkpoint.fingerprint
import stages.cli.flags
import stages.cli.subcommands
import stages.run.build
import stages.run.data.corpus
import stages.run.loop
import stages.run.parallel
import stages.run.train  # noqa: F401
