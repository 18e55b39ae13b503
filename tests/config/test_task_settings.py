"""How `--tasks` is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from headsearch.config.locations import absolute_locations
from headsearch.config.task_settings import TaskSpec, tasks_of, with_places
from headsearch.errors import UserError


def test_tasks_have_a_name_data_and_perhaps_labels() -> None:
    assert tasks_of("a=one.csv,two.csv@intent; b = folder ;") == (
        TaskSpec("a", ("one.csv", "two.csv"), "intent"),
        TaskSpec("b", ("folder",)),
    )
    assert tasks_of(None) == ()


def test_columns_of_pairs_and_an_at_in_a_path() -> None:
    (task,) = tasks_of("sts=me@home/pairs.csv@first,second,score")
    assert task == TaskSpec("sts", ("me@home/pairs.csv",), "first,second,score")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("folder", "'folder' is no task"),
        ("=folder", "is no task"),
        ("a b=folder", "is no task"),
        ("a=", "does not say which data"),
        ("a=x,", "does not say which data"),
        ("a=x,y,z", "does not say which data"),
        ("a=x@", "does not say which data"),
        ("a=x;a=y", "two tasks are called 'a'"),
        (" ; ", "names no task"),
        ("x" * 41 + "=y", "is no task"),
    ],
)
def test_what_is_no_list_of_tasks_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        tasks_of(text)
    assert "\n" not in str(error.value)


def test_written_tasks_are_read_back() -> None:
    text = "a=one.csv,two.csv@intent;b=folder"
    assert with_places(text, lambda place: place, lambda labels: labels) == text


def test_a_run_records_the_places_of_tasks_absolutely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("labels.csv").touch()
    text = "a=one.csv,scenes@column;b=x.tar@labels.csv"
    recorded = absolute_locations({"tasks": text})["tasks"]
    assert recorded == (
        f"a={tmp_path}/one.csv,scenes@column;b={tmp_path}/x.tar@{tmp_path}/labels.csv"
    )
