"""What every test starts from: one thread, a disk that survives no power cut, coarse probes."""

import contextlib
import gc
import os
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from optuna.storages._rdb.storage import _VersionManager as VersionManager
from sqlalchemy import Engine, event

from headsearch import api, report
from headsearch.evaluation.proxies import labelled
from headsearch.evaluation.proxies.linear import linear_scores
from headsearch.models.bases import arguments, plan
from headsearch.models.heads import FAMILIES
from headsearch.models.heads.family import Family
from headsearch.models.space import resolved

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


def asked_once(function: Callable[..., Any], about: Callable[..., bool]) -> Callable[..., Any]:
    """A function that is asked only once about the same arguments, if they are such."""
    answers: dict[str, Any] = {}

    def ask(*arguments: Any) -> Any:
        if not about(*arguments):
            return function(*arguments)
        key = repr(arguments)
        if key not in answers:
            answers[key] = function(*arguments)
        return answers[key]

    return ask


def tiny(timm_name: str, *_: Any) -> bool:
    return timm_name.startswith("test_")


def built_in(family: Family, *_: Any) -> bool:
    return FAMILIES.get(family.name) is family


# A search measures its base and its heads by models on the meta device, and whoever opens a study
# reads all that ever changed in Optuna's tables: together a fifth of the time of a small search,
# for the same answers each time.
plan._shape_of = asked_once(plan._shape_of, tiny)
plan.check_arguments = arguments.check_arguments = asked_once(arguments.check_arguments, tiny)
resolved.head_cost = asked_once(resolved.head_cost, built_in)
_newest_tables = VersionManager.get_head_version
_known: list[str] = []


def newest_tables(manager: VersionManager) -> str:
    if not _known:
        _known.append(_newest_tables(manager))
    return _known[0]


VersionManager.get_head_version = newest_tables


def pytest_collection_finish() -> None:
    """Spares the garbage collector all that was imported, which stays anyway.

    To go through it again and again was a twentieth of the time of a small search.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def fitted_probes() -> Iterator[None]:
    """Linear probes as users get them: for what another program or process comes to as well."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(labelled, "linear_scores", linear_scores)
        yield


@pytest.fixture(scope="module")
def without_reports() -> Iterator[None]:
    """Searches that end without a report, which takes as long as the rest.

    In processes that are forked from this one as well.
    """
    with pytest.MonkeyPatch.context() as patched:
        for module in (report, api):
            patched.setattr(module, "write_report", lambda run, out=None: run.path / "report.html")
        yield
