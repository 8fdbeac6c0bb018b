#!/usr/bin/env bash
# Every figure that is measured on a GPU, in at most 6 minutes. `--dry_run` lists the commands, `--cpu` tries it without a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" exec python benchmarks/gpu.py "$@"
