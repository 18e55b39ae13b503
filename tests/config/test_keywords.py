"""The keywords of the Python API: their types, the signatures that list them, names in errors."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Union, get_args, get_type_hints

import pytest

import headsearch
from headsearch.config.keywords import (
    PretrainSettings,
    SearchSettings,
    VerifyChoices,
    api_function,
    in_python,
)
from headsearch.config.setting_groups import OF_SEARCH_ALONE
from headsearch.config.settings import RunConfig
from headsearch.data.image.skipped import LeftOut, TooManyBadError
from headsearch.errors import UserError

PARAMETERS = {"base", "space", "data", "eval_data"}
"""Settings that take objects too, so the functions have them as parameters of their own."""


def as_keyword(annotation: Any) -> Any:
    """The type of a keyword: that of the setting, where a path may be text too."""
    options = get_args(annotation) if type(None) in get_args(annotation) else (annotation,)
    if Path not in options:
        return annotation
    return Union[(str, *options)]


@pytest.mark.parametrize(
    ("kind", "left_out"),
    [(SearchSettings, PARAMETERS), (PretrainSettings, {*PARAMETERS, *OF_SEARCH_ALONE})],
)
def test_the_keywords_are_the_settings_with_their_types(kind: type, left_out: set[str]) -> None:
    expected = {
        name: as_keyword(field.annotation)
        for name, field in RunConfig.model_fields.items()
        if name not in left_out
    }
    hints = get_type_hints(kind)
    assert hints.keys() == expected.keys()
    for name, hint in hints.items():
        assert hint == expected[name], name
    assert kind.__total__ is False  # type: ignore[attr-defined]


def test_the_choices_of_verify_are_those_of_the_method() -> None:
    expected = get_type_hints(headsearch.verify)
    del expected["run"], expected["return"]
    assert get_type_hints(VerifyChoices) == expected


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        ("search", SearchSettings),
        ("pretrain", PretrainSettings),
        ("Result.pretrain", PretrainSettings),
        ("Result.verify", VerifyChoices),
    ],
)
def test_a_signature_lists_every_keyword(function: str, kind: type) -> None:
    found: Any = headsearch
    for name in function.split("."):
        found = getattr(found, name)
    parameters = inspect.signature(found).parameters
    assert kind.__annotations__.keys() <= parameters.keys()
    assert not [p for p in parameters.values() if p.kind == p.VAR_KEYWORD]
    # What a type checker and an editor read.
    assert f"Unpack[{kind.__name__}]" in inspect.unwrap(found).__annotations__.values()


def test_every_function_of_the_api_names_keywords_in_its_errors() -> None:
    methods = ("pretrain", "verify", "report", "plot")
    functions = [getattr(headsearch, name) for name in headsearch.__all__]
    functions = [each for each in functions if inspect.isfunction(each)]
    assert len(functions) == 10
    of_results = [getattr(headsearch.Result, name) for name in methods]
    for function in (*functions, *of_results, headsearch.Comparison.report):
        assert hasattr(function, "__wrapped__"), function


TRANSLATED = {
    "--lr: input should be greater than 0, but got -1": (
        "lr=…: input should be greater than 0, but got -1"
    ),
    "12 steps are fewer than 20 rungs; use more --images or --epochs, or a smaller --batch-size": (
        "12 steps are fewer than 20 rungs; use more images= or epochs=, or a smaller batch_size="
    ),
    "--log tensorboard needs the package": "log='tensorboard' needs the package",
    "--images-per-head 7 leaves 3 heads 2 images": "images_per_head=7 leaves 3 heads 2 images",
    "--rank-by absorption needs --coupling observe": (
        "rank_by='absorption' needs coupling='observe'"
    ),
    "--discrepancy prototype_kl needs prototypes, but --objective is simclr": (
        "discrepancy='prototype_kl' needs prototypes, but objective= is simclr"
    ),
    "--pretrained and --base-weights exclude each other": (
        "pretrained=True and base_weights= exclude each other"
    ),
    "--compile: vit has no blocks": "compile=True: vit has no blocks",
    "name a head with --head, or --head none": "name a head with head=, or head='none'",
    "unknown --rank-by 'acuracy'; did you mean": "unknown rank_by='acuracy'; did you mean",
    "try a lower --lr than 0.001.": "try a lower lr= than 0.001.",
    "`headsearch verify RUN --top 3` adds runs": "`headsearch verify RUN --top 3` adds runs",
    "--dry-run measures": "--dry-run measures",
    "runs/a--lr/config.yaml: no such file": "runs/a--lr/config.yaml: no such file",
    "--storage sqlite:///x.db: cannot be shared": "storage='sqlite:///x.db': cannot be shared",
}


@pytest.mark.parametrize("message", TRANSLATED)
def test_flags_in_a_message_become_keywords(message: str) -> None:
    found = in_python(message, {"head"}, {"absorption"})
    assert found == TRANSLATED[message]
    assert in_python(found, {"head"}, {"absorption"}) == found


def test_an_error_keeps_its_kind_and_what_it_carries() -> None:
    left_out = LeftOut()

    @api_function()
    def fails() -> None:
        raise TooManyBadError("3 of 4 images, more than --max-bad-images 0.05 allows", left_out)

    with pytest.raises(TooManyBadError, match=r"more than max_bad_images=0\.05 allows") as error:
        fails()
    assert error.value.left_out is left_out


TINY: dict[str, Any] = {
    "image_size": 16, "images": 64, "epochs": 1, "batch_size": 32, "rungs": 1, "eval_images": 64,
    "bank_images": 64, "device": "cpu", "precision": "float32", "threads": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 0}, "epochs=…: input should be greater than or equal to 1"),
        ({"rungs": 9}, "use more images= or epochs=, or a smaller batch_size= or rungs="),
        ({"base_args": "depth"}, "base_args=…: 'depth' does not have the form KEY=VALUE"),
        ({"discrepancy": "prototype_kl"}, "discrepancy='prototype_kl' needs an objective"),
        ({"device": "cuda:99"}, "device=…: "),
        ({"pretrained": True, "base_weights": "x"}, "pretrained=True and base_weights= exclude"),
        ({"rank_by": "absorption", "coupling": "joint"}, "needs coupling='observe'"),
    ],
)
def test_errors_in_python_name_the_keyword(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        headsearch.search("test_vit", out=tmp_path / "run", **{**TINY, **settings})
    assert words in str(error.value)
    assert "--" not in str(error.value)


def test_errors_of_other_functions_name_the_keyword_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rank= and head= both choose a head"):
        headsearch.pretrain(rank=1, head="mixer-d1")
    with pytest.raises(UserError, match=r"cohort= does not apply to pretraining"):
        headsearch.pretrain(head="none", cohort=3)
    with pytest.raises(UserError, match=r"a directory; space= takes a YAML file"):
        headsearch.candidates(tmp_path)
