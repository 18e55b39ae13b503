"""The shared study of a search on many machines: settings, hashes and tasks in a shared storage.

`submit` writes the settings, the hashes of everything that decides the results, and a task for each
cohort. Workers, `collect` and `status` read them back. All candidates are drawn before any of them
trains, and a cohort starts from the same first weights on any machine. The results therefore do not
depend on the number of workers, or on which worker takes which cohort.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from headsearch.cluster.engine.chunked_attributes import pieces, whole
from headsearch.cluster.engine.claims import Rules, Task
from headsearch.cluster.engine.queue import Tasks
from headsearch.cluster.initial_weights import absolute, fetch, share
from headsearch.config import formats
from headsearch.config.locations import LOCATIONS
from headsearch.config.setting_groups import of_older_runs
from headsearch.config.settings import RunConfig
from headsearch.config.yaml_file import located
from headsearch.data.fingerprint import difference, fingerprint
from headsearch.errors import UserError
from headsearch.models.bases import BasePlan
from headsearch.models.space import Space, load_space, read_space
from headsearch.runs.facts import RunFacts
from headsearch.runs.storage import (
    NoStorageError,
    check_shared,
    existing_storage,
    open_storage,
)
from headsearch.runs.storage_url import masked
from headsearch.study.proposals import draw_cohorts
from headsearch.study.run_facts import first_facts
from headsearch.study.setup import SearchSetup, prepare, settings_of
from headsearch.text import counted
from headsearch.training.base_plan import plan_as_recorded
from headsearch.training.inputs import InMemoryInputs
from headsearch.training.objectives import Objective
from headsearch.training.setup import TrainingSetup, first_student

CONTENT = "headsearch"
"""The attribute of the study that holds what `submit` wrote."""
COHORT, SOLO = "cohort", "solo"
"""The kinds of tasks."""
INDEPENDENT = ("rung", "none")
"""Pruners whose decisions about a cohort depend on that cohort alone."""
LEARNING = ("tpe", "nsgaii")
"""Samplers that learn from candidates that have been scored."""


@dataclass(frozen=True)
class SharedStudy:
    """A study that `submit` wrote.

    Attributes:
        storage: the storage that holds it.
        url: the URL of the storage, without its password.
        name: the name of the study.
        settings: the settings, as in config.yaml of a search.
        facts: the facts of the run that are known before the first step.
        cohorts: the candidates of each cohort: their names and the parameters of their trials.
        shared: the location of the first weights.
        first_weights: the hashes of the first weights, by seed.
        images: the fingerprint of the images.
    """

    storage: BaseStorage
    url: str
    name: str
    settings: Mapping[str, Any]
    facts: RunFacts
    cohorts: tuple[tuple[Mapping[str, Any], ...], ...]
    shared: str
    first_weights: Mapping[int, str]
    images: Mapping[str, Any]

    def tasks(self) -> Tasks:
        """The queue of its tasks.

        Raises:
            UserError: it has none, because `submit` was interrupted.
        """
        try:
            return Tasks(self.storage, self.name)
        except KeyError:
            raise UserError(
                f"--study {self.name} has no tasks: its submit was interrupted; submit it anew "
                "under another name"
            ) from None

    @property
    def id(self) -> int:
        """The number of the study in its storage."""
        return self.storage.get_study_id_from_name(self.name)


def check_can_be_shared(config: RunConfig) -> None:
    """Raises UserError if a cohort's results would depend on the order in which cohorts end."""
    if config.pruner not in INDEPENDENT:
        raise UserError(
            f"--pruner {config.pruner} judges by what has ended before, and on many machines that "
            f"has no fixed order; use {' or '.join(INDEPENDENT)}"
        )


def submit(
    prepared: SearchSetup, name: str, url: str, shared: str, rules: Rules
) -> tuple[SharedStudy, list[str]]:
    """Writes a study whose cohorts workers can train.

    Args:
        prepared: the set-up of the search.
        name: the name of the study.
        url: the URL of the storage.
        shared: a location for the first weights that all machines can reach: a path or any URL that
            fsspec knows.
        rules: the time limits of its queue, and how often a task may fail.

    Returns:
        The study, and notes for the user, one line each.

    Raises:
        UserError: there is a study of this name, or it cannot be written.
    """
    config, notes = prepared.config, []
    check_shared(url)
    check_can_be_shared(config)
    storage = open_storage(url)
    if name in {study.study_name for study in storage.get_all_studies()}:
        raise _exists(name, url)
    cohorts = _drawn(prepared)
    if prepared.listing is None and config.sampler in LEARNING:
        notes.append(
            f"all candidates are drawn before any has trained, so {config.sampler} has nothing to "
            "learn from"
        )
    location = absolute(shared)
    seeds = range(config.seed, config.seed + config.seeds)
    hashes = share_first_weights(
        config, prepared.plan, prepared.training.objective, seeds, location
    )
    content = {
        # Locations as they were given: other machines may have the same layout elsewhere.
        "settings": {
            **settings_of(prepared, Path(name)),
            **config.model_dump(mode="json", include=set(LOCATIONS)),
            "storage": None,
        },
        "facts": first_facts(prepared),
        "cohorts": cohorts,
        "shared": location,
        "first_weights": hashes,
        "images": fingerprint(prepared.data),
    }
    try:
        study = storage.create_new_study([StudyDirection.MAXIMIZE], name)
    except DuplicatedStudyError:
        raise _exists(name, url) from None
    storage.set_study_user_attr(study, formats.KEY, formats.FLEET)
    for key, piece in pieces(CONTENT, content):
        storage.set_study_user_attr(study, key, piece)
    tasks = [
        Task(cohort_key(index), COHORT, {"cohort": index, "candidates": cohort})
        for index, cohort in enumerate(cohorts)
    ]
    try:
        Tasks.create(storage, name, tasks, rules)
    except DuplicatedStudyError:
        raise _exists(f"{name}.tasks", url) from None
    count = sum(map(len, cohorts))
    notes.append(
        f"study {name}: {counted(count, 'candidate')} in {counted(len(cohorts), 'cohort')}"
    )
    return open_study(url, name, storage), notes


def cohort_key(index: int) -> str:
    """The key of a cohort's task. The index counts from 0, the key from 1."""
    return f"cohort {index + 1}"


def open_study(url: str, name: str, storage: BaseStorage | None = None) -> SharedStudy:
    """Reads a study back; no storage is created.

    Args:
        url: the URL of the storage.
        name: the name of the study.
        storage: the storage, if it is open already.

    Raises:
        UserError: there is no study of this name, or `submit` did not write it.
    """
    check_shared(url)
    try:
        opened = existing_storage(url) if storage is None else storage
        attributes = opened.get_study_user_attrs(opened.get_study_id_from_name(name))
        formats.check_format(attributes.get(formats.KEY), formats.FLEET, f"--study {name}")
        content = whole(CONTENT, attributes)
    except (KeyError, ValueError) as error:
        if isinstance(error, UserError) and not isinstance(error, NoStorageError):
            raise
        raise UserError(
            f"--study {name}: no study that `headsearch submit` wrote to {masked(url)}"
        ) from None
    return SharedStudy(
        storage=opened,
        url=masked(url),
        name=name,
        settings=content["settings"],
        facts=content["facts"],
        cohorts=tuple(map(tuple, content["cohorts"])),
        shared=content["shared"],
        first_weights={int(seed): sha for seed, sha in content["first_weights"].items()},
        images=content["images"],
    )


def prepare_as_submitted(
    study: SharedStudy, overrides: Mapping[str, Any], cache: Path, space_file: Path | None = None
) -> SearchSetup:
    """Opens and checks on this machine everything that the study's cohorts need.

    Writes nothing but the cache.

    Args:
        study: the study.
        overrides: settings of this machine: device, threads, the location of the data.
        cache: a folder for the first weights.
        space_file: the search space; needed if it has families of the user's own.

    Raises:
        UserError: something cannot be opened here, or is not what the study was submitted with.
    """
    # The first weights are fetched from the shared location, so the file or model that they were
    # read from need not exist on this machine.
    local = {
        "base_weights": None, "weights_prefix": None, "pretrained": False, "out": None,
        "storage": None, **overrides,
    }  # fmt: skip
    submitted = {
        **of_older_runs(study.settings.get("recipe")),
        **study.settings,
    }  # an older version knew fewer settings
    settings = {
        name: submitted[name] for name in RunConfig.model_fields if name in submitted
    } | local
    config = RunConfig.model_validate(settings)
    base = plan_as_recorded(config, study.settings["base_arguments"])
    if base is None:
        raise UserError(
            f"--study {study.name}: {config.base} is built differently here than where it was "
            "submitted: use the same versions of headsearch and timm"
        )
    space = _space_of(study, space_file)
    if space.hash != study.settings["space_hash"]:
        raise UserError(f"--study {study.name}: the space differs from the one submitted")
    prepared = prepare(config, inputs=InMemoryInputs(base=base, space=space))
    other = difference(fingerprint(prepared.data), dict(study.images))
    if other is not None:
        raise UserError(f"--study {study.name} was submitted with other data: {other}")
    files = {seed: fetch(study.shared, sha, cache) for seed, sha in study.first_weights.items()}
    return replace(prepared, training=prepared.training.starting_from(files))


def share_first_weights(
    config: RunConfig, plan: BasePlan, objective: Objective, seeds: Iterable[int], location: str
) -> dict[int, str]:
    """Writes the first weights of each seed to the shared location; returns their hashes."""
    return {
        seed: share(
            location,
            first_student(
                config.model_copy(update={"seed": seed}), plan, objective, config.coupling
            ),
        )
        for seed in seeds
    }


def under_first_weights(
    study: SharedStudy, setup: TrainingSetup, seed: int, sha: str, cache: Path
) -> TrainingSetup:
    """The set-up with another seed, and the first weights that have this hash."""
    return setup.under(seed).starting_from({seed: fetch(study.shared, sha, cache)})


def _drawn(prepared: SearchSetup) -> list[list[dict[str, Any]]]:
    """The candidates of all cohorts, in the order in which a run would ask for them."""
    return [
        [{"name": each.candidate.name, "params": each.trial.params} for each in cohort]
        for cohort in draw_cohorts(prepared.space, prepared.listing, prepared.config)
    ]


def _space_of(study: SharedStudy, file: Path | None) -> Space:
    """The study's space, read from the study, or from a file if it has families of the user's own.

    Such families are code, and a storage must not be able to run code on this machine.
    """
    if file is not None:
        return load_space(file)
    content = study.settings["space_content"]
    if any("module" in (entry or {}) for entry in content["families"].values()):
        raise UserError(
            f"--study {study.name}: its space {study.settings['space']} has families of the "
            "user's own, which are code: give the file here with --space"
        )
    return read_space(located(content, "the study's space"), str(study.settings["space"]))


def _exists(name: str, url: str) -> UserError:
    return UserError(f"--study {name} exists already in {masked(url)}: choose another name")
