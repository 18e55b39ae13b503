"""What every test starts from: one thread, a disk that survives no power cut, coarse probes."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from sqlalchemy import Engine, event

from headsearch.evaluation.proxies import labelled
from headsearch.evaluation.proxies.linear import linear_scores

# Tests run side by side; more threads than cores make each other wait.
torch.set_num_threads(1)


# Tests kill processes, never the machine: what was written is then there without being flushed to
# the disk, and waiting for the disk was a seventh of the time of a small search.
def no_wait_for_the_disk(handle: int) -> None:
    os.fstat(handle)  # raises for a handle that is not open, as fsync does


os.fsync = no_wait_for_the_disk


@event.listens_for(Engine, "connect")
def without_flushes(connection: object, _: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        with contextlib.suppress(sqlite3.Error):  # a file that is no database: the test's concern
            connection.execute("PRAGMA synchronous=OFF")


# Fits of linear probes were a third of the time of a small search, and most of their iterations
# change no prediction. Where tests compare searches with one another, few iterations do as well.
# What a fit comes to in the end is for the tests of probes, which call `linear_scores` themselves.
labelled.linear_scores = partial(linear_scores, max_iterations=8)


@pytest.fixture(scope="module")
def fitted_probes() -> Iterator[None]:
    """Linear probes as users get them: for what another program or process comes to as well."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(labelled, "linear_scores", linear_scores)
        yield
