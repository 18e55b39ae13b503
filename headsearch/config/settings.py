"""All settings of a run: their types, bounds, help texts and defaults, and how they are resolved.

A setting is a field of `RunConfig` with its type, bounds, help text and panel in `--help`. The
command line makes its flags from these fields, so a setting is defined once. Values are resolved in
the order preset < recipe < config file < flag.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from headsearch.config import (
    audio_settings,
    dense_settings,
    formats,
    pruning_settings,
    task_settings,
    text_settings,
)
from headsearch.config.checks import (
    checked_bank_images,
    checked_images_per_head,
    checked_normalization,
    checked_views,
    refuse_empty,
    refuse_switch,
)
from headsearch.config.panels import MACHINE, SCORES, SEARCH, TRAIN, WHAT, setting
from headsearch.config.presets import DEFAULT_LR, PRESETS
from headsearch.config.recipes import find_recipe
from headsearch.config.setting_groups import RECORDED, not_inherited, of_older_runs
from headsearch.config.yaml_file import Located, read_yaml
from headsearch.errors import UserError, unknown

Budget = Literal["auto", "quick", "standard", "full"]
Coupling = Literal["joint", "observe"]
Precision = Literal["auto", "float32", "bf16"]
CheckImages = Literal["auto", "lazy", "headers"]
Log = Literal["none", "tensorboard"]
Among = Literal["cohort", "all"]
Stop = Literal["end", "settled"]
CudaGraphs = Literal["auto", "never"]
DomainName = Literal["auto", "image", "audio", "text"]
ImagesPerHead: TypeAlias = Literal["all", "share"] | int


class RunConfig(BaseModel):
    """The resolved settings of one run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _plausible(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[info.field_name or ""]
        if any(isinstance(each, BeforeValidator) for each in field.metadata):
            return value  # its own check says what would do
        return refuse_switch(refuse_empty(value), field.annotation)

    base: str = setting(
        "vit_mini",
        "Model to pretrain: vit_mini (96 wide), vit_t, vit_s, convnext_t, … or any timm model. Of "
        "transformers: hf:TYPE (texts: hf:bert, hf:gpt2; clips: hf:wav2vec2, …) or hf:FOLDER.",
        WHAT,
    )
    base_args: str | None = setting(
        None, "Arguments of the model: KEY=VALUE,… (depth=6,embed_dim=192,num_heads=6).", WHAT
    )
    base_weights: Path | None = setting(
        None, "Initial weights of the base: a .safetensors file or a torch checkpoint.", WHAT
    )
    weights_prefix: str | None = setting(
        None,
        "What stands before the base's names in the file of --base-weights, such as "
        "teacher.backbone. [default: found]",
        WHAT,
    )
    normalization: Annotated[str, BeforeValidator(checked_normalization)] = setting(
        "auto",
        "Mean and std of the images' colours: imagenet, inception (0.5), clip, or MEAN/STD. auto: "
        "those that the first weights expect; ImageNet's if there are none or they do not say.",
        WHAT,
    )
    pretrained: bool = setting(False, "Start the base from timm's pretrained weights.", WHAT)
    domain: DomainName = setting(
        "auto", "Kind of data: image, audio (clips of sound), text, auto (by base and files).", WHAT
    )
    space: str = setting(
        "heads.yaml", "The search space: a YAML file, or the name of a built-in space.", WHAT
    )
    data: str = setting(
        "scenes",
        "Training images: 'scenes' (built in), a folder, .tar shards, a list of paths (.txt or "
        ".csv), a URL (s3://…) or a timm dataset (torch/…). Or clips of sound: a folder or .tar. "
        "Or texts: lines (.txt), a table (.csv, .tsv, .jsonl) or a folder.",
        WHAT,
    )
    eval_data: str | None = setting(
        None,
        "Evaluation images, named as in --data; of texts also BANK,QUERIES. [default: held out "
        "from --data]",
        WHAT,
    )
    data_dir: Path | None = setting(
        None, "The folder of timm's datasets (torch/…, hfds/…, …), also for downloads.", WHAT
    )
    store_size: int | None = setting(
        None,
        "Shorter side in pixels at which photos are kept in memory. [default: 1.75 × image size]",
        WHAT, ge=16,
    )  # fmt: skip
    check_images: CheckImages = setting(
        "auto",
        "Files of sets over --memory to open before training: headers (all), lazy (none; bad ones "
        "are replaced when they are met), auto (up to 100,000).",
        WHAT,
    )
    labels: str = setting(
        "auto",
        "Where labels of files come from: auto (class folders, or files beside the images), "
        "folders (whatever their names), none, or a FILE of paths and labels.",
        WHAT,
    )
    max_bad_images: float = setting(
        0.05, "Largest share of unreadable images; above it the run stops.", WHAT, ge=0, le=1
    )
    download: bool = setting(False, "Allow timm to download datasets.", WHAT)
    objective: str = setting(
        "simclr",
        "The self-supervised objective: dino, ibot, mocov3, byol, simsiam, simclr, barlow, vicreg "
        "or mae.",
        WHAT,
    )

    recipe: str = setting(
        "short",
        "Training recipe: short (schedules for a run of any length), or a published one, which "
        "also sets base and objective: hssl-vit-s, hssl-vit-b. Other flags override it.",
        TRAIN,
    )
    budget: Budget = setting(
        "auto",
        "Preset of images, epochs, trials, cohort, rungs and more. auto: quick on a CPU, standard "
        "on an accelerator.",
        TRAIN,
    )
    images: int = setting(0, "Training images, drawn at random; 0 means all.", TRAIN, ge=0)
    epochs: int = setting(1, "Passes over the training images.", TRAIN, ge=1)
    batch_size: int = setting(64, "Images per training step.", TRAIN, ge=4)
    image_size: int | None = setting(
        None, "Side of the square images in pixels. [default: follows the data]", TRAIN, ge=16
    )
    patch_size: int | None = setting(
        None, "Patch side in pixels, for bases with patches. [default: for a map of at least 4×4]",
        TRAIN, ge=1,
    )  # fmt: skip
    views: Annotated[str, BeforeValidator(checked_views)] = setting(
        "auto",
        "Random views of training images: small (for images below 64 pixels), published (those of "
        "the objective), multicrop (with local crops), auto (small or published, by image size), "
        "and changes to them: published,crop_scale=0.2/1,blur=1/0.1,…",
        TRAIN,
    )
    lr: float | None = setting(
        None,
        "Peak learning rate of AdamW. A published --recipe scales its own by --batch-size.",
        TRAIN, gt=0, lt=100,
    )  # fmt: skip
    weight_decay: float = setting(
        0.05, "Weight decay; not applied to biases and norms.", TRAIN, ge=0, lt=100
    )
    coupling: Coupling = setting(
        "observe",
        "observe: the base trains alone and heads train on its detached features, so no head "
        "influences another; joint: heads also train the base, as in the HSSL paper.",
        TRAIN,
    )
    images_per_head: Annotated[ImagesPerHead, BeforeValidator(checked_images_per_head)] = setting(
        "all",
        "How many images of a step each head trains on: all, a number, or share (the images are "
        "divided among the live heads). The base always trains on all.",
        TRAIN,
    )

    trials: int = setting(12, "Maximum number of candidates.", SEARCH, ge=1)
    cohort: int = setting(12, "Maximum number of heads that train together.", SEARCH, ge=1)
    rungs: int = setting(4, "How often heads are scored and pruned during training.", SEARCH,
                         ge=1)  # fmt: skip
    first_rung: float = setting(
        0.0,
        "Share of the training (0 to 1) before the first rung, which is the first to prune; the "
        "other rungs follow at equal distances. 0: all distances are equal.",
        SEARCH, ge=0, lt=1,
    )  # fmt: skip
    seeds: int = setting(
        1,
        "Number of seeds, starting at --seed, that every cohort is trained with: scores are means "
        "over seeds, and the report shows how well the seeds agree.",
        SEARCH, ge=1, le=100,
    )  # fmt: skip
    sampler: str = setting(
        "tpe", "Sampler for spaces too large to enumerate: tpe, random, qmc, nsgaii.", SEARCH
    )
    pruner: str = pruning_settings.PRUNER
    eta: float = pruning_settings.ETA
    min_keep: int = pruning_settings.MIN_KEEP
    prune_among: Among = pruning_settings.AMONG
    stop: Stop = pruning_settings.STOP
    storage: str | None = setting(
        None, "Optuna storage URL. [default: SQLite in the run directory]", SEARCH
    )

    rank_by: str = pruning_settings.RANK_BY
    discrepancy: str = setting(
        "cka",
        "Measure of discrepancy: cka, mutual_knn, procrustes or (dino and ibot only) prototype_kl.",
        SCORES,
    )
    eval_images: int = setting(600, "Held-out images on which the heads are scored.", SCORES, ge=32)
    bank_images: Annotated[int, BeforeValidator(checked_bank_images)] = setting(
        1000, "Labelled images of k-NN and the linear probe; 0 means all.", SCORES, ge=0
    )
    probe_classes: int = setting(
        100,
        "Most classes that accuracy is measured on, drawn by the seed; fewer where each would have "
        "fewer than 10 bank images. 0: all. Training images are of all classes in any case.",
        SCORES, ge=0)  # fmt: skip

    tasks: str | None = task_settings.TASKS

    dense_data: str | None = dense_settings.DATA
    dense_format: str = dense_settings.FORMAT
    dense_classes: str | None = dense_settings.CLASSES
    dense_ignore: str | None = dense_settings.IGNORE
    dense_tiles: bool = dense_settings.TILES

    sample_rate: int | None = audio_settings.SAMPLE_RATE
    clip_seconds: float | None = audio_settings.CLIP_SECONDS
    window_ms: float = audio_settings.WINDOW
    hop_ms: float = audio_settings.HOP
    mels: int = audio_settings.MEL_BANDS

    text_tokens: int | None = text_settings.TEXT_TOKENS
    vocab_size: int | None = text_settings.VOCAB_SIZE
    text_column: str | None = text_settings.TEXT_COLUMN
    label_column: str | None = text_settings.LABEL_COLUMN

    device: str = setting("auto", "auto, cpu, cuda, cuda:1, …", MACHINE)
    precision: Precision = setting(
        "auto", "auto, bf16 or float32; auto is bf16 if the hardware is fast at it.", MACHINE
    )
    cuda_graphs: CudaGraphs = setting(
        "auto",
        "auto: on CUDA, record the training step once as a CUDA graph and replay it, which is "
        "faster for small bases and many heads; never: for modules with random draws or branches "
        "in Python.",
        MACHINE,
    )
    compile: bool = setting(
        False,
        "Compile the base's blocks (torch.compile): slower start, then faster training.",
        MACHINE,
    )
    memory: float = setting(4.0, "GiB of pixels that a set of images may take; larger sets are "
                            "read in every step.", MACHINE, gt=0, le=65536)  # fmt: skip
    workers: int | None = setting(
        None,
        "Processes that read and crop photos; 0: threads of the training process. "
        "[default: 0 up to 4 cores, else one for each core but one, at most 16]",
        MACHINE, ge=0, le=256,
    )  # fmt: skip
    threads: int | None = setting(None, "CPU threads. [default: PyTorch's]", MACHINE, ge=1, le=4096)
    seed: int = setting(0, "Seed of all random choices.", MACHINE, ge=0, lt=2**32)
    data_seed: int | None = setting(
        None,
        "Seed for drawing images and splitting labels. [default: --seed]",
        MACHINE, ge=0, lt=2**32,
    )  # fmt: skip
    snapshot_every: float = setting(
        10.0, "Minutes between snapshots; each rung also writes one.", MACHINE, gt=0
    )
    log: Log = setting(
        "none",
        "tensorboard: write training curves for TensorBoard into the run directory.",
        MACHINE,
    )
    out: Path | None = setting(
        None, "The run directory. [default: a new one under results/]", MACHINE
    )

    @property
    def peak_lr(self) -> float:
        """The peak learning rate, once it is known: `prepare_training` resolves it by the width."""
        assert self.lr is not None
        return self.lr


def panel_of(field: str) -> str:
    """The panel of a setting in `--help`."""
    extra = RunConfig.model_fields[field].json_schema_extra
    assert isinstance(extra, dict)
    return str(extra["panel"])


def read_config_file(path: Path) -> dict[str, Located]:
    """The settings in a YAML file, each with its line. A run's own config.yaml is such a file.

    Raises:
        UserError: the file cannot be read, or has a key that is no setting.
    """
    return _read_settings(path)[0]


def _read_settings(path: Path) -> tuple[dict[str, Located], bool]:
    """The settings in a YAML file, and whether it is the config.yaml of a run that has begun."""
    root = read_yaml(path)
    entries = root.mapping("the settings")
    if formats.KEY in entries:
        written = entries[formats.KEY]
        formats.check_format(written.plain(), formats.RUN, written.where)
    recorded = set(RECORDED) & set(entries)  # not empty: a run's own config.yaml
    settings = {}
    for key, value in entries.items():
        name = key.replace("-", "_")
        if name in RECORDED or (recorded and name == "out"):
            continue  # a run's own config.yaml repeats the run in another directory
        if name not in RunConfig.model_fields:
            raise root.key_error(key, unknown("setting", name, RunConfig.model_fields))
        if isinstance(value.value, list | dict):
            raise value.error(f"{name} must be a single value, but is {value.shown()}")
        settings[name] = value
    begun = bool(recorded & {"study_name", "solo_head"})
    if begun:
        for name, before in of_older_runs(settings.get("recipe")).items():
            settings.setdefault(name, Located(before, root.where, {}))
    return settings, begun


def resolve(
    flags: Mapping[str, Any], config_file: Path | None = None, *, accelerator: bool = False
) -> RunConfig:
    """The settings of a run: preset < recipe < config file < flag.

    Args:
        flags: the settings given on the command line, by field name.
        config_file: a YAML file of settings, or None.
        accelerator: whether the run's device is an accelerator; decides the budget `auto`.

    Raises:
        UserError: a setting is unknown, of the wrong type or out of bounds.
    """
    located, begun = _read_settings(config_file) if config_file else ({}, False)
    read = {name: entry.value for name, entry in located.items()}
    for name in not_inherited(read, flags) if begun else ():
        read.pop(name, None)
    given = {**read, **flags}
    budget = given.get("budget", "auto")
    if budget == "auto":
        budget = "standard" if accelerator else "quick"
    if not isinstance(budget, str) or budget not in PRESETS:
        raise unknown("budget", budget, [*PRESETS, "auto"])
    recipe = find_recipe(given.get("recipe", RunConfig.model_fields["recipe"].default))
    preset = dict(PRESETS[budget])
    if budget != "quick" or {"images", "epochs", "batch_size"} & given.keys():
        preset["lr"] = DEFAULT_LR  # `quick_lr` is for the preset's number of steps
    if "rungs" in given:
        preset.pop("first_rung", None)  # it was chosen for the preset's number of rungs
    try:
        config = RunConfig.model_validate({**preset, **recipe.settings, **given, "budget": budget})
    except ValidationError as error:
        raise UserError(_explain(error, flags, located)) from None
    # After validation, because the rate depends on the resolved batch size.
    scaled_lr = recipe.lr(config.batch_size)
    if scaled_lr is None or "lr" in given:
        return config
    return config.model_copy(update={"lr": scaled_lr})


def _explain(
    error: ValidationError, flags: Mapping[str, Any], located: Mapping[str, Located]
) -> str:
    """The first error of pydantic as one line that names the flag, or the file and line."""
    first = error.errors()[0]
    name = str(first["loc"][0])
    source = "--" + name.replace("_", "-") if name in flags else f"{located[name].where}: {name}"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{source}: {message}, but got {first['input']!r}"
