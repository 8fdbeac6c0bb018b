"""What every child process needs, loaded once in the fork server."""

from __future__ import annotations

import stages.cli.pretrain
import stages.run.corpus
import stages.run.fingerprint
import stages.run.loop
import stages.run.pretraining  # noqa: F401
