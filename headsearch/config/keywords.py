"""The settings as keywords of the Python API: their types, signatures, and names in errors.

The fields of `RunConfig` are the one source of the settings. Editors and type checkers cannot read
them from there, so the classes below list them once more; a test compares the two.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypedDict, TypeVar, get_args, get_type_hints

from headsearch.config.settings import (
    Among,
    Budget,
    CheckImages,
    Coupling,
    CudaGraphs,
    DomainName,
    ImagesPerHead,
    Log,
    Precision,
    RunConfig,
    Stop,
)
from headsearch.errors import UserError

F = TypeVar("F", bound=Callable[..., Any])


class PretrainSettings(TypedDict, total=False):
    """The settings of `headsearch.pretrain`: those of `RunConfig` that are no parameters of it."""

    base_args: str | None
    base_weights: str | Path | None
    weights_prefix: str | None
    normalization: str
    pretrained: bool
    domain: DomainName
    data_dir: str | Path | None
    store_size: int | None
    check_images: CheckImages
    labels: str
    max_bad_images: float
    download: bool
    objective: str
    recipe: str
    budget: Budget
    images: int
    epochs: int
    batch_size: int
    image_size: int | None
    patch_size: int | None
    views: str
    lr: float | None
    weight_decay: float
    rungs: int
    first_rung: float
    discrepancy: str
    eval_images: int
    bank_images: int
    probe_classes: int
    tasks: str | None
    dense_data: str | None
    dense_format: str
    dense_classes: str | None
    dense_ignore: str | None
    dense_tiles: bool
    sample_rate: int | None
    clip_seconds: float | None
    window_ms: float
    hop_ms: float
    mels: int
    text_tokens: int | None
    vocab_size: int | None
    text_column: str | None
    label_column: str | None
    device: str
    precision: Precision
    cuda_graphs: CudaGraphs
    compile: bool
    memory: float
    workers: int | None
    threads: int | None
    seed: int
    data_seed: int | None
    snapshot_every: float
    log: Log
    out: str | Path | None


class SearchSettings(PretrainSettings, total=False):
    """The settings of `headsearch.search`: those of `RunConfig` that are no parameters of it."""

    coupling: Coupling
    images_per_head: ImagesPerHead
    trials: int
    cohort: int
    seeds: int
    sampler: str
    pruner: str
    eta: float
    min_keep: int
    prune_among: Among
    stop: Stop
    storage: str | None
    rank_by: str


class VerifyChoices(TypedDict, total=False):
    """The keywords of `headsearch.verify`, for `Result.verify`."""

    top: int
    seeds: int
    controls: bool
    jobs: int | None
    threads: int | None
    device: str
    engine: str | None
    progress: bool | None


def api_function(kind: type | None = None) -> Callable[[F], F]:
    """A decorator of the functions of the Python API.

    The keywords of a `TypedDict` take the place of `**settings` in the function's signature, so
    that `help` shows them and a notebook completes them. Their defaults are shown as `...`, because
    a budget, a recipe or a run may decide them.

    Errors name keywords in place of flags: messages are written for the command line, and this is
    the one place where they are translated.

    Args:
        kind: the `TypedDict`; None if the function has no settings.
    """

    def decorate(function: F) -> F:
        own = [
            parameter
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind != parameter.VAR_KEYWORD
        ]
        parameters = [*own, *_listed(kind)]
        names = {parameter.name for parameter in parameters} - {"self"}

        @functools.wraps(function)
        def translated(*args: Any, **keywords: Any) -> Any:
            try:
                return function(*args, **keywords)
            except UserError as error:
                given = {str(value) for value in keywords.values() if isinstance(value, str | Path)}
                error.args = (in_python(str(error), names, given), *error.args[1:])
                raise

        signature = inspect.signature(function).replace(parameters=parameters)
        translated.__signature__ = signature  # type: ignore[attr-defined]
        return translated  # type: ignore[return-value]

    return decorate


def _listed(kind: type | None) -> list[inspect.Parameter]:
    """The keywords of a `TypedDict` as parameters; none without one."""
    hints = get_type_hints(kind) if kind is not None else {}
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=..., annotation=hint)
        for name, hint in hints.items()
    ]


# A flag, and the word after it. Text between backticks is a command and stays as it is.
_FLAG = re.compile(
    r"(?P<command>`[^`]*`)|(?<![\w-])--(?P<flag>[a-z]+(?:-[a-z]+)*)(?:(?P<colon>:)|"
    r"(?P<space> )(?P<word>'[^']*'|\S*[^\s,;:.)]))?"
)


def in_python(message: str, own: Collection[str] = (), given: Collection[str] = ()) -> str:
    """A message with the keywords of the Python API in place of the flags of the command line.

    `--epochs` becomes `epochs=`, `--coupling observe` becomes `coupling='observe'`, the switch
    `--compile` becomes `compile=True`, and `--lr: wrong` becomes `lr=…: wrong`. A flag that is no
    setting and no parameter stays as it is.

    Args:
        message: the message.
        own: names of parameters besides the settings.
        given: texts that the caller passed; after a flag they are its value.
    """

    def keyword(found: re.Match[str]) -> str:
        name = (found["flag"] or "").replace("-", "_")
        if found["command"] or name not in {*RunConfig.model_fields, *own}:
            return found[0]
        word = found["word"] or ""
        field = RunConfig.model_fields.get(name)
        if field is not None and field.annotation is bool:
            return f"{name}=True{found['colon'] or ''}{found['space'] or ''}{word}"
        if found["colon"]:
            return f"{name}=…:"
        if _is_value(word, name, given):
            bare = _is_number(word) or word.startswith("'")
            return f"{name}={word if bare else repr(word)}"
        return f"{name}={found['space'] or ''}{word}"

    return _FLAG.sub(keyword, message)


def _is_value(word: str, name: str, given: Collection[str]) -> bool:
    """Whether the word after a flag is its value, and not the next word of the sentence."""
    field = RunConfig.model_fields.get(name)
    parts = get_args(field.annotation) if field is not None else ()
    choices = [choice for part in parts for choice in (part, *get_args(part))]
    return (
        word in (*given, *choices, "none")
        or word.startswith("'")
        or re.search(r"[\d_/=]", word) is not None
    )


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
