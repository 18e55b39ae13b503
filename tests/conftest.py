"""What every test starts from: one thread, and a disk that need not survive a power cut."""

import contextlib
import os
import sqlite3

import torch
from sqlalchemy import Engine, event

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
