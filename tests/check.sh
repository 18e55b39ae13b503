#!/usr/bin/env bash
# The one check: sets itself up on a fresh machine, then lint, types, import floors and tests.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ ! -x .venv/bin/python ]; then
    python3 -m venv .venv
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
export PATH="$PWD/.venv/bin:$PATH"
ruff check .
ruff format --check .
mypy
lint-imports
# One thread a process: more would only wait for each other. One worker more than cores, for some
# tests wait for processes that they have started. Long tests come last in the order of files, so a
# worker that is done takes over some of the others' (worksteal).
workers=$(($(getconf _NPROCESSORS_ONLN) + 1))
OMP_NUM_THREADS=1 python -m pytest -n "$workers" --dist worksteal "$@"
