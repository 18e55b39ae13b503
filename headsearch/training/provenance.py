"""The provenance of a run: settings, versions, git commit and base, as config.yaml records them."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from headsearch import torchrun
from headsearch.config.domains import words_of
from headsearch.config.locations import absolute_locations
from headsearch.config.presets import STEPS_TO_LEARN
from headsearch.config.recipes import find_recipe
from headsearch.data import fingerprint
from headsearch.data.domain import Views
from headsearch.errors import UserError
from headsearch.models.bases import normalization_of
from headsearch.runs.run import SOLO_HEAD
from headsearch.text import counted
from headsearch.training.setup import (
    TrainingSetup,
)
from headsearch.version import VERSION


def setup_notes(setup: TrainingSetup) -> Iterator[str]:
    """Notes on base, recipe, weights and data, one line each."""
    data = setup.data
    yield str(setup.plan)
    if setup.config.recipe != "short":
        yield f"recipe {setup.config.recipe}: {find_recipe(setup.config.recipe).help}"
    if setup.plan.weights is not None:
        yield str(setup.plan.weights)
    words = setup.domain.words
    if not setup.plan.of_transformers:
        yield f"{words.normalized} are normalised with {normalized_with(setup)}"
    yield f"views of training {words.samples}: {_views(setup).words}"
    bank = data.bank
    labels = counted(len(bank.classes), "class", "classes") if bank is not None else "no labels"
    images = counted(len(data.train), f"training {words.sample}")
    yield f"{images} from {setup.config.data}, {labels}"
    yield from data.notes
    for other in (setup.dense, setup.tasks):
        if other is not None:
            yield from other.notes
    enough = STEPS_TO_LEARN.get(setup.config.objective, 0)
    if setup.steps < enough:
        yield (
            f"{counted(setup.steps, 'step')} may be too few for {setup.config.objective}: a small "
            f"ViT has been seen to learn with it in {enough} steps of 128 images (--budget "
            "standard, or more --epochs)"
        )
    threads, used = setup.config.threads, torch.get_num_threads()
    if threads is not None and threads > used:
        yield (
            f"--threads {threads} is more than the cores of this machine: {counted(used, 'thread')}"
        )
    if setup.batch < setup.config.batch_size:
        yield (
            f"--batch-size {setup.config.batch_size} is more than the {setup.batch} training "
            f"{words.samples}: steps of {setup.batch} {words.samples}"
        )


def _views(setup: TrainingSetup) -> Views:
    return setup.domain.views(setup.config, setup.data.train.shape)


def normalized_with(setup: TrainingSetup) -> str:
    """The normalisation of a run in words, and why it is not that of the weights if it is not."""
    chosen = setup.normalization
    name = f" ({setup.config.normalization})" if setup.config.normalization[0].isalpha() else ""
    weights = setup.plan.weights
    one = setup.plan.input_shape.channels == 1
    text = f"{chosen.words_of_one if one else chosen.words}{name}"
    if weights is None:
        return text
    if weights.normalization is None:
        timms = normalization_of(setup.plan.timm_name)
        other = "" if timms is None or chosen.is_close(timms) else f" (timm's own expect {timms})"
        return f"{text}: {weights.origin} does not say which{other}; --normalization sets another"
    if not chosen.is_close(weights.normalization):
        return f"{text}, although the weights expect {weights.normalization.words}"
    return f"{text}, as the weights expect"


def machine_note(setup: TrainingSetup) -> str:
    """The device, the threads and the precision of a run, in one line."""
    on_cpu = setup.device.type == "cpu"
    threads = f" with {counted(torch.get_num_threads(), 'thread')}" if on_cpu else ""
    others = (
        f", {torchrun.count()} processes with a share of each step" if torchrun.count() > 1 else ""
    )
    return f"{setup.device}{threads}, {'bf16' if setup.autocast else 'float32'}{others}"


def recorded_settings(setup: TrainingSetup, run_directory: Path) -> dict[str, Any]:
    """The content of config.yaml: the resolved settings and all else that decides the results."""
    weights, shape = setup.plan.weights, setup.data.train.shape
    settings = setup.config.model_dump(mode="json")
    return {
        **settings,
        **absolute_locations({**settings, "given": setup.inputs.names}),
        "image_size": None if shape.sequence else shape.width,
        "device": str(setup.device),
        "precision": "bf16" if setup.autocast else "float32",
        "threads": torch.get_num_threads(),
        "processes": torchrun.count(),
        "out": str(run_directory),
        **({"given": setup.inputs.names} if setup.inputs.names else {}),
        "first_weights": (
            {"origin": weights.origin, "sha256": weights.sha256} if weights is not None else None
        ),
        "base_arguments": {"timm_name": setup.plan.timm_name, **setup.plan.arguments},
        "data_fingerprint": fingerprint.written(fingerprint.fingerprint(setup.data)),
        "git_commit": _git_commit(),
        "versions": versions_here(),
    }


def versions_here() -> dict[str, str]:
    """The versions that decide the results: of headsearch, Python and packages."""
    packages = ("torch", "torchvision", "timm", "optuna", "numpy")
    return {
        "headsearch": VERSION,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def check_same_data(
    run_directory: Path, begun: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    """Checks that a run is resumed with the images it began with, wherever they lie now.

    Runs of older versions have no fingerprint; of those, only the number of images is compared.

    Args:
        run_directory: the run's.
        begun: its settings, as its config.yaml records them.
        settings: those that it is to be resumed with, from `recorded_settings`.

    Raises:
        UserError: the images are others.
    """
    before = fingerprint.read_back(begun.get("data_fingerprint", {}))
    now = fingerprint.read_back(settings["data_fingerprint"])
    if before is None or now is None or ("study_name" not in begun and SOLO_HEAD not in begun):
        return
    words = words_of(str(settings.get("domain")))
    other = fingerprint.difference(now, before, words)
    if other is not None:
        raise UserError(
            f"{run_directory}: the data has changed since the run began: {other}; if it was "
            f"moved: headsearch resume {run_directory} --data PATH"
        )


def _git_commit() -> str | None:
    """The git commit of headsearch's source tree; None if it doesn't run from a git checkout."""
    here = Path(__file__).parent
    try:
        # An installed copy may lie inside another project's repository, which does not track it.
        tracked = subprocess.run(
            ["git", "ls-files", "--error-unmatch", Path(__file__).name], cwd=here,
            capture_output=True, check=False,
        )  # fmt: skip
        if tracked.returncode != 0:
            return None
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return head.stdout.strip() or None
