"""`--views`: what its names stand for, changes to them, and the views of older runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from headsearch.config.settings import RunConfig, resolve
from headsearch.config.views import PUBLISHED_VIEWS, SMALL_VIEWS, ViewSettings, views_for
from headsearch.errors import UserError
from headsearch.training.objectives import OBJECTIVES


def test_every_objective_has_published_views():
    assert PUBLISHED_VIEWS.keys() == OBJECTIVES.keys()


@pytest.mark.parametrize(("size", "published"), [(32, False), (63, False), (64, True), (224, True)])
def test_auto_means_small_or_published_by_image_size(size: int, published: bool):
    expected = PUBLISHED_VIEWS["byol"] if published else SMALL_VIEWS
    assert views_for("auto", "byol", size) == expected
    assert views_for("small", "byol", size) == replace(SMALL_VIEWS, blur=(0.5 * (size >= 64),))
    assert views_for("published", "byol", size) == PUBLISHED_VIEWS["byol"]


def test_masked_images_are_cropped_and_flipped_alone_at_any_size():
    views = views_for("auto", "mae", 32)
    assert views.words == "crops of 20 to 100 % of the area (bicubic), flips"


def test_changes_follow_the_name():
    views = views_for("published,solarize=0.5,blur=1/0,crop_scale=0.3/0.9", "simclr", 224)
    expected = replace(
        PUBLISHED_VIEWS["simclr"], solarize=(0.5,), blur=(1.0, 0.0), crop_scale=(0.3, 0.9)
    )
    assert views == expected
    assert views_for("interpolation=bicubic", "simclr", 32).interpolation == "bicubic"


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("size", [32, 224])
def test_a_run_records_them_as_a_text_that_gives_the_same(objective: str, size: int):
    views = views_for("auto", objective, size)
    assert views_for(str(views), "simclr", 16) == views


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("publisht", "did you mean 'published'"),
        ("blurr=1", "did you mean 'blur'"),
        ("blur", "choices: auto, multicrop, published, small"),
        ("small,blur", "blur needs one value, as in blur="),
        ("blur=1,blur=0", "blur needs one value"),
        ("blur=x", "should be like blur=0.0"),
        ("blur=0/0/0", "one for each of 2 views"),
        ("jitter=1", "should be like jitter=0.4/0.4/0.2/0.1"),
        ("crop_scale=0.5/0.2", "low <= high"),
        ("interpolation=nearest", "bilinear"),
    ],
)
def test_other_texts_are_refused_with_what_would_do(text: str, words: str):
    with pytest.raises(UserError, match=words):
        resolve({"views": text})


def older_run(path: Path, **settings: object) -> RunConfig:
    """The settings of a run that was made before there were views."""
    lines = [f"{name}: {value}" for name, value in {"study_name": "x", **settings}.items()]
    file = path / "config.yaml"
    file.write_text("\n".join(lines) + "\n")
    return resolve({}, file)


def test_older_runs_keep_their_views_and_classes(tmp_path: Path):
    config = older_run(tmp_path, objective="byol", image_size=224)
    assert views_for(config.views, "byol", 224) == ViewSettings(blur=(0.5,))
    assert config.probe_classes == 0
    recipe = older_run(tmp_path, recipe="hssl-vit-s")
    expected = ViewSettings(blur=(0.5,), crop_scale=(0.14, 1.0))
    assert views_for(recipe.views, "ibot", 224) == expected


def test_another_objective_or_size_brings_its_own(tmp_path: Path):
    file = tmp_path / "config.yaml"
    recorded = {"study_name": "x", "objective": "byol", "image_size": 32, "views": "small,blur=0.3"}
    file.write_text("\n".join(f"{name}: {value}" for name, value in recorded.items()))
    assert resolve({}, file).views == "small,blur=0.3"
    assert resolve({"image_size": 32, "epochs": 3}, file).views == "small,blur=0.3"
    assert resolve({"image_size": 64}, file).views == "auto"
    assert resolve({"objective": "mae"}, file).views == "auto"
    assert resolve({"objective": "mae", "views": "small"}, file).views == "small"
