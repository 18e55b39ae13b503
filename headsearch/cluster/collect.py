"""`headsearch collect`: writes the results of many workers as the run directory of one search.

Results are merged in the order of cohorts, not in the order in which workers finished. Apart from
measured times, the tables are therefore bitwise the same whatever happened to the workers. Cohorts
that are not done are left out, and later cohorts keep their numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import json_to_distribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial

from headsearch.cluster.engine.claims import Standing
from headsearch.cluster.shared_study import COHORT, SOLO, SharedStudy, cohort_key
from headsearch.errors import UserError
from headsearch.pretraining.verification import keep_solo_rows
from headsearch.report.statistics.gains import write_gains
from headsearch.runs.directory import CONFIG, create, hold, read_config
from headsearch.runs.run import Run, read_run
from headsearch.runs.tables import SOLO_COLUMNS
from headsearch.study.leaderboard import base_of_the_first, ordered, write_tables

FLEET = "fleet"
"""The key in config.yaml under which a collected search names its study and storage."""
SUMS = ("cost_base_equivalents", "solo_equivalents")
"""Facts of a search that are the sums of those of its cohorts."""


def collect(study: SharedStudy, out: Path) -> tuple[Run, list[str]]:
    """Writes the finished cohorts of a study into a run directory.

    Args:
        study: the study.
        out: the run directory, a new one or that of an earlier `collect` of the same study.

    Returns:
        The run, and notes for the user, one line each.

    Raises:
        UserError: no cohort is done, or the directory belongs to another run.
    """
    tasks = study.tasks()
    results, stand = tasks.results(COHORT), tasks.standing()
    if not results:
        raise UserError(f"--study {study.name}: no cohort of it is done yet")
    about = {"study": study.name, "storage": study.url}
    if out.exists():
        if read_config(out).get(FLEET) != about:
            raise UserError(f"{out} exists, and is not what was collected of {study.name} before")
    else:
        create(out, {**study.settings, "out": str(out), FLEET: about})
    lock = hold(out)
    try:
        _write(study, results, out, complete=len(results) == len(study.cohorts))
        bring_solos(read_run(out), tasks.results(SOLO))
        write_gains(read_run(out))
    except OSError as error:
        raise UserError(f"{out}: cannot write: {error.strerror or error}") from None
    finally:
        lock.release()
    return read_run(out), [*_unfinished_tasks(stand), *solo_failures(tasks.results(SOLO))]


def bring_solos(run: Run, results: Mapping[str, Any]) -> None:
    """Adds the results of the workers' solo runs to a run, as `verify` adds its own."""
    scores = [name for name in SOLO_COLUMNS if name not in ("candidate", "family", "seed")]
    solos = [
        {**result["about"], **{name: result["row"][name] for name in scores}}
        for result in results.values()
        if "row" in result
    ]
    keep_solo_rows(run, solos)


def solo_failures(results: Mapping[str, Any]) -> Iterator[str]:
    """The solo runs that failed and why, one line each."""
    for key, result in results.items():
        if "failure" in result:
            yield f"{key}: {result['failure']}"


def _write(study: SharedStudy, results: Mapping[str, Any], out: Path, *, complete: bool) -> None:
    rows: list[dict[str, Any]] = []
    rung_rows: list[dict[str, Any]] = []
    score_rows: list[dict[str, Any]] = []
    trials: list[dict[str, Any]] = []
    facts: dict[str, Any] = {**study.facts, "status": "complete" if complete else "interrupted"}
    facts["lowered"], facts["splits"], facts["baselines"] = [], [], {}
    facts |= dict.fromkeys(SUMS, 0.0) | {"wall_s": 0.0, "score_s": 0.0}
    trained_s, steps, first, devices = 0.0, 0, 0, []
    for index in range(len(study.cohorts)):
        result = results.get(cohort_key(index))
        if result is None:
            first += 1
            continue
        of_cohort = result["facts"]
        rows += _renumbered(result["rows"], first)
        rung_rows += _renumbered(result["rung_rows"], first)
        score_rows += result["score_rows"]
        trials += [{**t, "attrs": _renumbered([t["attrs"]], first)[0]} for t in result["trials"]]
        facts["lowered"] += _renumbered(of_cohort["lowered"], first)
        facts["splits"] += _renumbered(of_cohort["splits"], first)
        facts["baselines"] = {**of_cohort["baselines"], **facts["baselines"]}
        for name in (*SUMS, "wall_s", "score_s"):
            facts[name] += of_cohort[name]
        facts["dominant_share"] = of_cohort.get("dominant_share")
        trained_s += result["pace"]["train_s"]
        steps += result["pace"]["steps_done"]
        devices.append(of_cohort["device"])
        first += len(result["sizes"])
    facts["device"] = ", ".join(sorted(set(devices)))
    batch = int(study.settings["batch_size"])
    batch = min(batch, facts.get("images", batch))
    facts["images_per_second"] = steps * batch / trained_s if trained_s else None
    ranking = ordered(rows)
    facts["baselines"].update(base_of_the_first(ranking, rung_rows))
    write_tables(out, ranking, rung_rows, score_rows)
    _write_study(out, str(study.settings["study_name"]), trials, facts)


def _renumbered(rows: list[dict[str, Any]], by: int) -> list[dict[str, Any]]:
    """The rows of a cohort whose task numbered it from 0, renumbered among all cohorts."""
    return [{**row, "cohort": row["cohort"] + by} for row in rows]


def _write_study(
    out: Path, name: str, trials: list[dict[str, Any]], facts: Mapping[str, Any]
) -> None:
    """Writes the Optuna study of the run, one trial per candidate, atomically."""
    partial = out / ".study.db.collecting"
    partial.unlink(missing_ok=True)
    storage = RDBStorage(f"sqlite:///{partial.absolute()}")
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
    study.add_trials(
        create_trial(
            state=TrialState[trial["state"]],
            value=trial["value"],
            params=trial["params"],
            distributions={
                parameter: json_to_distribution(distribution)
                for parameter, distribution in trial["distributions"].items()
            },
            intermediate_values={int(at): value for at, value in trial["intermediate"].items()},
            user_attrs=trial["attrs"],
        )
        for trial in trials
    )
    study.set_user_attr("facts", dict(facts))
    storage.engine.dispose()
    partial.replace(out / "study.db")


def _unfinished_tasks(standings: list[Standing]) -> Iterator[str]:
    """The tasks that are not done and why, one line each."""
    for standing in standings:
        if standing.state == "lost":
            after = f"is lost after {standing.attempt} attempts"
            how = "headsearch worker --retry-lost tries it again"
            yield f"{standing.task.key} {after} ({standing.reason}): {how}"
        elif standing.state != "done":
            by = f" at {standing.worker}" if standing.worker else ""
            yield f"{standing.task.key} is {standing.state}{by}: collect again once it is done"


def collected_from(path: Path) -> Mapping[str, str] | None:
    """The study and storage that a run was collected from; None for an ordinary run."""
    return read_config(path).get(FLEET) if (path / CONFIG).is_file() else None
