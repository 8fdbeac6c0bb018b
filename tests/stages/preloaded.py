"""Modules that every child process needs, loaded once in the fork server.

The garbage collector leaves them alone: in each child a collection would search, and so copy, all their memory.
"""

from __future__ import annotations

import gc

gc.disable()

import torch.distributed.checkpoint  # noqa: E402, F401
import typeguard  # noqa: E402, F401
import tyro._backends._tyro_backend  # noqa: E402, F401

import stages.checkpoint.fingerprint  # noqa: E402
import stages.checkpoint.lock  # noqa: E402
import stages.cli.flags  # noqa: E402
import stages.cli.main  # noqa: E402
import stages.cli.subcommands  # noqa: E402
import stages.run.build  # noqa: E402
import stages.run.data.corpus  # noqa: E402
import stages.run.loop  # noqa: E402
import stages.run.parallel  # noqa: E402
import stages.run.train  # noqa: E402, F401

gc.freeze()
gc.enable()
