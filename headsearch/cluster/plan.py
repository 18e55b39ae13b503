"""RUN/plan.json: what a search on an engine consists of, and the check that a machine has the same.

The plan holds the settings, the hashes of everything that decides the results, and the candidates
of each cohort. A cohort starts from the same first weights on any machine, so the results do not
depend on where it trains.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save

from headsearch.cluster.task import RefusedError
from headsearch.config import formats
from headsearch.config.settings import RunConfig
from headsearch.data.fingerprint import difference, fingerprint
from headsearch.errors import UserError
from headsearch.models.bases import BasePlan
from headsearch.models.space import find_space, load_space, recorded_space
from headsearch.runs.directory import write_atomically
from headsearch.runs.facts import RunFacts
from headsearch.study.other_data_record import check_same_other_data
from headsearch.study.setup import SearchSetup, prepare
from headsearch.training.base_plan import plan_as_recorded
from headsearch.training.distributed import RankLostError
from headsearch.training.inputs import InMemoryInputs
from headsearch.training.objectives import Objective
from headsearch.training.provenance import versions_here
from headsearch.training.setup import TrainingSetup, first_student

PLAN = "plan.json"
"""The file with the plan of a run."""
WEIGHTS = "first_weights"
"""The folder with the first weights of each seed, named by their hash."""


@dataclass(frozen=True)
class Plan:
    """The plan of a search on an engine.

    Attributes:
        engine: the engine that it was begun with (`--engine`).
        generation: the number of cohorts between which a sampler does not learn (`--generation`).
        settings: the content of config.yaml.
        facts: the facts of the run that are known before the first step.
        images: the fingerprint of the images.
        first_weights: the hash of the first weights of each seed.
        cohorts: the candidates of each cohort that was drawn: `name`, `params` and `trial`.
        exhausted: whether the space has no further candidate.
        processes: the number of processes that train each cohort (`--processes`).
    """

    engine: str
    generation: int
    settings: Mapping[str, Any]
    facts: RunFacts
    images: Mapping[str, Any]
    first_weights: Mapping[int, str]
    cohorts: tuple[tuple[Mapping[str, Any], ...], ...] = ()
    exhausted: bool = False
    processes: int = 1

    @property
    def known(self) -> dict[int, int]:
        """The cohort of each candidate, by trial number."""
        return {
            head["trial"]: index for index, cohort in enumerate(self.cohorts) for head in cohort
        }


def write_plan(run: Path, plan: Plan) -> None:
    """Writes the plan of a run.

    Raises:
        OSError: it cannot be written.
    """
    content = json.dumps({formats.KEY: formats.PLAN, **asdict(plan)}, indent=1)
    write_atomically(run / PLAN, content)


def read_plan(run: Path) -> Plan | None:
    """The plan of a run; None if it has none, because it was begun in one process.

    Raises:
        UserError: this headsearch cannot read it.
    """
    file = run / PLAN
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        formats.check_format(content.pop(formats.KEY), formats.PLAN, str(file))
        weights = {int(seed): sha for seed, sha in content.pop("first_weights").items()}
        cohorts = tuple(map(tuple, content.pop("cohorts")))
        return Plan(**content, first_weights=weights, cohorts=cohorts)
    except FileNotFoundError:
        return None
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not the plan of a run ({error}): search again") from None


def write_first_weights(
    run: Path, config: RunConfig, plan: BasePlan, objective: Objective, seeds: Iterable[int]
) -> dict[int, str]:
    """Writes the first weights of each seed into a run directory; returns their hashes.

    A seed determines the weights, but another processor or PyTorch may round the last bit
    differently, and every cohort has to start from the same weights.

    Raises:
        OSError: they cannot be written.
    """
    (run / WEIGHTS).mkdir(exist_ok=True)
    hashes = {}
    for seed in seeds:
        seeded = config.model_copy(update={"seed": seed})
        student = first_student(seeded, plan, objective, config.coupling)
        tensors = {name: each.contiguous().clone() for name, each in student.state_dict().items()}
        content = save(tensors)
        hashes[seed] = hashlib.sha256(content).hexdigest()
        write_atomically(_weights_file(run, hashes[seed]), content)
    return hashes


def checked_first_weights(run: Path, hashes: Mapping[int, str]) -> dict[int, Path]:
    """The files with the first weights of each seed, whose content has these hashes.

    Raises:
        RefusedError: a file is missing or holds something else.
    """
    files = {seed: _weights_file(run, sha) for seed, sha in hashes.items()}
    for seed, file in files.items():
        try:
            found = hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError as error:
            raise RefusedError(f"{file}: cannot be read: {error.strerror}") from None
        if found != hashes[seed]:
            raise RefusedError(f"{file}: not the first weights that the run began with")
    return files


def _weights_file(run: Path, sha: str) -> Path:
    return run / WEIGHTS / f"{sha}.safetensors"


def prepare_as_planned(run: Path, device: str) -> SearchSetup:
    """Opens and checks on this machine everything that a cohort of a run needs.

    Args:
        run: the run directory.
        device: the device of this task.

    Raises:
        RefusedError: something cannot be opened here, or is not what the run began with.
    """
    try:
        plan = read_plan(run)
        if plan is None:
            raise RefusedError(f"{run}: not found here; the machines must share its file system")
        return _prepared(run, plan, device)
    except (RefusedError, RankLostError):
        raise
    except UserError as error:
        raise RefusedError(str(error)) from None


def _prepared(run: Path, plan: Plan, device: str) -> SearchSetup:
    check_versions(plan.settings["versions"])
    # The first weights lie in the run, so the file or model that they were read from need not be
    # here. Precision and threads are those that the run began with, since they decide the figures.
    local = {
        "base_weights": None, "weights_prefix": None, "pretrained": False, "out": None,
        "storage": None, "device": device,
    }  # fmt: skip
    known = {name: plan.settings[name] for name in RunConfig.model_fields if name in plan.settings}
    config = RunConfig.model_validate({**known, **local})
    base = plan_as_recorded(config, plan.settings["base_arguments"])
    if base is None:
        raise RefusedError(f"{config.base} is built differently here: use the same versions")
    space = recorded_space(plan.settings["space_content"], config.space)
    if space is None:
        space = load_space(find_space(config.space))
    if space.hash != plan.settings["space_hash"]:
        raise RefusedError(f"{config.space}: not the space that the run began with")
    prepared = prepare(config, inputs=InMemoryInputs(base=base, space=space))
    check_images(prepared.training, plan.images)
    try:
        check_same_other_data(plan.facts, prepared, str(run))
    except UserError as error:
        raise RefusedError(str(error)) from None
    files = checked_first_weights(run, plan.first_weights)
    return replace(prepared, training=prepared.training.starting_from(files))


def check_versions(begun: Mapping[str, str]) -> None:
    """Raises RefusedError if this machine has another version of something that decides results.

    Args:
        begun: the versions that the run began with, by package.
    """
    here = versions_here()
    for package, version in begun.items():
        if here.get(package, version) != version:
            raise RefusedError(
                f"{package} is {here[package]} here, and {version} where the run began: "
                "install the same version"
            )


def check_images(setup: TrainingSetup, begun: Mapping[str, Any]) -> None:
    """Raises RefusedError if the images are not those that the run began with."""
    other = difference(fingerprint(setup.data), dict(begun), setup.domain.words)
    if other is not None:
        raise RefusedError(f"{setup.config.data}: not the data that the run began with: {other}")
