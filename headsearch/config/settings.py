"""Every setting of a run: typed, validated, saved with the run.

A setting is one field of `RunConfig`: its type, its bounds, its help and its panel in `--help`.
The command line makes its flags from these fields, so a setting is written once. Values are
resolved in the order preset < recipe < config file < flag.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from headsearch import torchrun
from headsearch.config import formats
from headsearch.config.recipes import find_recipe
from headsearch.config.yaml_file import Located, read_yaml
from headsearch.errors import UserError, unknown

Budget = Literal["auto", "quick", "standard", "full"]
Coupling = Literal["joint", "observe"]
RankBy = Literal["auto", "discrepancy", "accuracy", "balanced"]
Precision = Literal["auto", "float32", "bf16"]
Log = Literal["none", "tensorboard"]
CudaGraphs = Literal["auto", "never"]
ImagesPerHead: TypeAlias = Literal["all", "share"] | int


def _images_per_head(value: Any) -> Any:
    """`all`, `share`, or a whole number from 2 on, also where a flag gives it as a text."""
    if value in ("all", "share"):
        return value
    number = int(value) if str(value).isascii() and str(value).isdigit() else 0
    if number < 2:
        raise PydanticCustomError(
            "images_per_head", "should be all, share or a number of images from 2 on"
        )
    return number


PRESETS: dict[str, dict[str, float]] = {
    # Sized for two CPU cores without bfloat16 and a ViT-S on a 4×4 map: about five minutes.
    "quick": {
        "images": 1024,
        "epochs": 2,
        "batch_size": 64,
        # Ten times as much leaves a ViT-S near collapse after these 32 steps: effective rank 7 and
        # 12 of 108 under two seeds, with this 91 and 84.
        "lr": 5e-5,
        "trials": 16,
        "cohort": 16,
        "rungs": 4,
        # As many as the discrepancy is measured on, and a bank as large: a rung costs three steps.
        "eval_images": 512,
        "bank_images": 512,
    },
    # Enough for a small base to leave raw pixels well behind (results/cifar10/vit-standard).
    "standard": {
        "images": 20_000,
        "epochs": 8,
        "batch_size": 128,
        "lr": 5e-4,
        "trials": 24,
        "cohort": 12,
        "rungs": 5,
        "eval_images": 4000,
        "bank_images": 4000,
    },
    # All the images there are, for accelerators.
    "full": {
        "images": 0,
        "epochs": 100,
        "batch_size": 256,
        "lr": 5e-4,
        "trials": 96,
        "cohort": 24,
        "rungs": 8,
        "eval_images": 10_000,
        "bank_images": 20_000,
    },
}
"""What a budget decides; every figure has a flag of its own that wins over it."""


WHAT = "What to search"
TRAIN = "Training"
SEARCH = "Search"
SCORES = "Scores"
MACHINE = "Machine and output"


def setting(default: Any, help: str, panel: str, **bounds: Any) -> Any:
    """A pydantic field that also says its help text and the panel it stands in."""
    return Field(default, description=help, json_schema_extra={"panel": panel}, **bounds)


class RunConfig(BaseModel):
    """The resolved settings of one run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str = setting(
        "vit_s", "The model to pretrain: vit_t, vit_s, vit_b, convnext_t, … or any timm name.", WHAT
    )
    base_args: str | None = setting(
        None, "Arguments of timm's model, as KEY=VALUE,…: depth=6,embed_dim=192,num_heads=6.", WHAT
    )
    base_weights: Path | None = setting(
        None, "First weights of the base: a .safetensors file or a torch checkpoint.", WHAT
    )
    pretrained: bool = setting(False, "Start the base from timm's pretrained weights.", WHAT)
    space: str = setting(
        "heads.yaml", "The search space: a YAML file, or the name of one that ships.", WHAT
    )
    data: str = setting(
        "scenes",
        "Training images: 'scenes' (built in), a folder or .tar, or a timm dataset (torch/…).",
        WHAT,
    )
    eval_data: str | None = setting(
        None, "Evaluation images, named like --data. [default: held out from --data]", WHAT
    )
    data_dir: Path | None = setting(
        None, "Where timm's datasets (torch/…, hfds/…, …) lie or are downloaded to.", WHAT
    )
    max_bad_images: float = setting(
        0.05, "Share of the images that may be unreadable; more stop the run.", WHAT, ge=0, le=1
    )
    download: bool = setting(False, "Let timm's datasets be downloaded.", WHAT)
    objective: str = setting(
        "simclr",
        "The self-supervised objective: dino, ibot, mocov3, byol, simsiam, simclr, barlow, vicreg "
        "or mae.",
        WHAT,
    )

    recipe: str = setting(
        "short",
        "How to train: short (schedules that fit a run of any length), or as published, with base, "
        "objective and all: hssl-vit-s, hssl-vit-b. Other flags win over it.",
        TRAIN,
    )
    budget: Budget = setting(
        "auto",
        "Decides images, epochs, trials, cohort and rungs: quick, standard, full or auto "
        "(quick on a CPU, standard on an accelerator).",
        TRAIN,
    )
    images: int = setting(0, "Training images, drawn by the seed; 0 means all.", TRAIN, ge=0)
    epochs: int = setting(1, "Passes over the training images.", TRAIN, ge=1)
    batch_size: int = setting(64, "Images in a step.", TRAIN, ge=4)
    image_size: int | None = setting(
        None, "Side of the square images in pixels. [default: follows the data]", TRAIN, ge=16
    )
    patch_size: int | None = setting(
        None, "Patch side in pixels, for bases that have one. [default: for a map of 4×4 or more]",
        TRAIN, ge=1,
    )  # fmt: skip
    lr: float = setting(
        5e-4, "Peak learning rate of AdamW. [a published --recipe scales its own by --batch-size]",
        TRAIN, gt=0, lt=100,
    )  # fmt: skip
    weight_decay: float = setting(
        0.05, "Weight decay; none on biases and norms.", TRAIN, ge=0, lt=100
    )
    coupling: Coupling = setting(
        "observe",
        "observe: heads train on detached features of a base that trains on its own, and cannot "
        "disturb one another; joint: heads shape the base too, as in the published training.",
        TRAIN,
    )
    images_per_head: Annotated[ImagesPerHead, BeforeValidator(_images_per_head)] = setting(
        "all",
        "Images of a step that each head sees, the base all of them: all, a number, or share: "
        "those of a step divided among the live heads.",
        TRAIN,
    )

    trials: int = setting(12, "Candidates at most.", SEARCH, ge=1)
    cohort: int = setting(12, "Heads that train together at once.", SEARCH, ge=1)
    rungs: int = setting(4, "How often all live heads are scored and the pruner decides.", SEARCH,
                         ge=1)  # fmt: skip
    seeds: int = setting(
        1,
        "Seeds that every cohort is trained under, from --seed on: scores are their means, and the "
        "report tells how far they agree.",
        SEARCH, ge=1, le=100,
    )  # fmt: skip
    sampler: str = setting(
        "tpe", "Sampler for spaces too large to enumerate: tpe, random, qmc, nsgaii.", SEARCH
    )
    pruner: str = setting(
        "rung",
        "Which heads leave early: rung, none, median, percentile, successive-halving, hyperband.",
        SEARCH,
    )
    eta: float = setting(2.0, "The rung pruner keeps the best 1/eta of the live heads.", SEARCH,
                         ge=1, le=1000)  # fmt: skip
    min_keep: int = setting(3, "Heads that the rung pruner keeps at least.", SEARCH, ge=1)
    storage: str | None = setting(
        None, "Optuna storage URL. [default: SQLite in the run directory]", SEARCH
    )

    rank_by: RankBy = setting(
        "auto",
        "The score that pruner and ranking use: discrepancy, accuracy or balanced (the geometric "
        "mean of both). auto: accuracy with labels, discrepancy without.",
        SCORES,
    )
    discrepancy: str = setting(
        "cka",
        "How discrepancy is measured: cka, mutual_knn, procrustes, or, with dino and ibot, "
        "prototype_kl.",
        SCORES,
    )
    eval_images: int = setting(600, "Held-out images that score the heads.", SCORES, ge=32)
    bank_images: int = setting(
        1000, "Labelled images that k-NN and the linear probe learn from.", SCORES, ge=8
    )

    device: str = setting("auto", "auto, cpu, cuda, cuda:1, …", MACHINE)
    precision: Precision = setting(
        "auto", "auto, bf16 or float32; auto is bf16 where the hardware is fast at it.", MACHINE
    )
    cuda_graphs: CudaGraphs = setting(
        "auto",
        "auto: on CUDA a step is recorded once and replayed, so that Python does not hold up small "
        "bases and many heads; never: kernel by kernel, which modules need that draw or branch in "
        "Python.",
        MACHINE,
    )
    compile: bool = setting(
        False,
        "Compile the base's blocks (torch.compile): starts slower, then trains faster.",
        MACHINE,
    )
    threads: int | None = setting(None, "CPU threads. [default: PyTorch's]", MACHINE, ge=1, le=4096)
    seed: int = setting(0, "Seed of everything random.", MACHINE, ge=0, lt=2**32)
    data_seed: int | None = setting(
        None,
        "Seed of which images are drawn and how labels are split. [default: --seed]",
        MACHINE, ge=0, lt=2**32,
    )  # fmt: skip
    snapshot_every: float = setting(
        10.0, "Minutes between snapshots, beside those at rungs.", MACHINE, gt=0
    )
    log: Log = setting(
        "none",
        "Curves for whoever watches: tensorboard writes them into the run directory.",
        MACHINE,
    )
    out: Path | None = setting(
        None, "The run directory. [default: a fresh one under results/]", MACHINE
    )


def panel_of(field: str) -> str:
    """The help panel that a setting stands in."""
    extra = RunConfig.model_fields[field].json_schema_extra
    assert isinstance(extra, dict)
    return str(extra["panel"])


OF_SEARCH_ALONE = (
    "space", "coupling", "images_per_head", "trials", "cohort", "seeds", "sampler", "pruner",
    "eta", "min_keep", "storage", "rank_by",
)  # fmt: skip
"""Settings that pretraining with one head has no use for."""

OF_A_STEP = (
    "base", "base_args", "space", "objective", "recipe", "budget", "batch_size", "image_size",
    "patch_size", "coupling", "images_per_head", "device", "precision", "cuda_graphs", "compile",
    "threads", "seed",
)  # fmt: skip
"""Settings that decide what one training step takes."""

RECORDED = (
    formats.KEY, "study_name", "space_hash", "space_content", "base_arguments", "first_weights",
    "git_commit", "versions", "given", "solo_head", "processes", "fleet",
)  # fmt: skip
"""What a run's own config.yaml holds beside its settings; not read back as settings."""


def read_config_file(path: Path) -> dict[str, Located]:
    """The settings in a YAML file, each with its line; a run's own config.yaml is one.

    Raises:
        UserError: the file cannot be read, or names something that is no setting.
    """
    root = read_yaml(path)
    entries = root.mapping("the settings")
    if formats.KEY in entries:
        written = entries[formats.KEY]
        formats.check_format(written.plain(), formats.RUN, written.where)
    recorded = set(RECORDED) & set(entries)
    settings = {}
    for key, value in entries.items():
        name = key.replace("-", "_")
        if name in RECORDED or (recorded and name == "out"):
            continue  # repeating a run, not writing into it
        if name not in RunConfig.model_fields:
            raise root.key_error(key, unknown("setting", name, RunConfig.model_fields))
        if isinstance(value.value, list | dict):
            raise value.error(f"{name} must be a single value, but is {value.shown()}")
        settings[name] = value
    return settings


def resolve(
    flags: Mapping[str, Any], config_file: Path | None = None, *, accelerator: bool = False
) -> RunConfig:
    """The settings of a run: preset < recipe < config file < flag.

    Args:
        flags: the settings that were given on the command line, by field name.
        config_file: a YAML file of settings, or None.
        accelerator: whether the run's device is one; decides the budget `auto`.

    Raises:
        UserError: a setting is unknown, of the wrong type or out of bounds.
    """
    located = read_config_file(config_file) if config_file else {}
    given = {**{name: entry.value for name, entry in located.items()}, **flags}
    budget = given.get("budget", "auto")
    if budget == "auto":
        budget = "standard" if accelerator else "quick"
    if not isinstance(budget, str) or budget not in PRESETS:
        raise unknown("budget", budget, [*PRESETS, "auto"])
    recipe = find_recipe(given.get("recipe", RunConfig.model_fields["recipe"].default))
    preset = dict(PRESETS[budget])
    if {"images", "epochs"} & given.keys():
        del preset["lr"]  # which is for that many steps
    try:
        config = RunConfig.model_validate({**preset, **recipe.settings, **given, "budget": budget})
    except ValidationError as error:
        raise UserError(_explain(error, flags, located)) from None
    scaled_lr = recipe.lr(config.batch_size)
    if scaled_lr is None or "lr" in given:
        return config
    return config.model_copy(update={"lr": scaled_lr})


def flags_from(settings: Mapping[str, Any], **objects: Any) -> dict[str, Any]:
    """Settings as the command line would have them; an object goes by the name of its class."""
    for name in settings:
        if name not in RunConfig.model_fields:
            raise unknown("setting", name, RunConfig.model_fields)
    named = {
        name: str(value) if isinstance(value, str | Path) else type(value).__name__
        for name, value in objects.items()
        if value is not None
    }
    return {**settings, **named}


def check_here(config: RunConfig) -> None:
    """Raises UserError where this process cannot do what the settings ask for."""
    if config.log == "tensorboard":
        found = find_spec("tensorboard")
        if found is None or found.origin is None:  # a mere folder of that name has no origin
            raise UserError(
                "--log tensorboard needs the package tensorboard: "
                "pip install 'headsearch[tensorboard]'"
            )
    if config.download and torchrun.count() > 1:
        raise UserError(
            "--download would fetch the data once a process: fetch them before, by one alone"
        )


def _explain(
    error: ValidationError, flags: Mapping[str, Any], located: Mapping[str, Located]
) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0])
    source = "--" + name.replace("_", "-") if name in flags else f"{located[name].where}: {name}"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{source}: {message}, but got {first['input']!r}"
