"""What every child process needs, loaded once in the fork server."""

from __future__ import annotations

import stages.checkpoint.fingerprint
import stages.cli.pretrain
import stages.run.data.corpus
import stages.run.loop
import stages.run.pretraining  # noqa: F401
