"""Images are normalised as the base's first weights expect, and the base says so afterwards."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import timm.data
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from headsearch.config import normalization
from headsearch.config.normalization import IMAGENET, NAMED, Normalization, parse
from headsearch.config.settings import resolve
from headsearch.data.image.views import normalize
from headsearch.errors import UserError
from headsearch.models.bases import pretrained_weights, read_weights
from headsearch.pretraining.run import Pretrained, Pretraining
from headsearch.pretraining.setup import prepare_pretraining
from headsearch.training.provenance import normalized_with

TRAINING: dict[str, Any] = {
    "base": "test_vit", "image_size": 16, "patch_size": 4, "images": 64, "epochs": 1,
    "batch_size": 32, "rungs": 1, "eval_images": 32, "bank_images": 32, "device": "cpu",
    "precision": "float32", "threads": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", IMAGENET),
        ("imagenet", IMAGENET),
        ("clip", NAMED["clip"]),
        ("0.5/0.25", Normalization((0.5,) * 3, (0.25,) * 3)),
        ("0.1,0.2,0.3/1,2,3", Normalization((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))),
    ],
)
def test_a_normalisation_is_a_name_or_numbers(text: str, expected: Normalization) -> None:
    assert parse(text) == expected
    assert parse(str(expected)).is_close(expected)


@pytest.mark.parametrize("text", ["half", "0.5", "0.5/0", "0.5,0.5/0.5", "nan/1", "1/2/3", ""])
def test_other_texts_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match="--normalization: should be auto, imagenet, ") as error:
        resolve({"normalization": text})
    assert "\n" not in str(error.value)


def test_timms_weights_bring_their_normalisation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), path)
    create = timm.create_model
    own = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

    def without_network(name: str, **arguments: Any) -> Any:
        overlay = {"file": str(path), **own} if arguments.get("pretrained") else own
        return create(name, pretrained_cfg_overlay=overlay, **arguments)

    monkeypatch.setattr(timm, "create_model", without_network)
    assert pretrained_weights("test_vit").normalization == NAMED["inception"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pretraining, Pretrained]:
    """A base pretrained from weights that expect other images than ImageNet's."""
    folder = tmp_path_factory.mktemp("normalized")
    metadata = {"normalization": json.dumps(normalization.as_json(NAMED["inception"]))}
    model = timm.create_model("test_vit", img_size=16, patch_size=4, num_classes=0)
    save_file(model.state_dict(), folder / "w.safetensors", metadata=metadata)
    weights = str(folder / "w.safetensors")
    flags = {**TRAINING, "base_weights": weights, "out": str(folder / "p")}
    running = Pretraining(prepare_pretraining(flags, head="none"))
    running.run()
    return running, Pretrained(
        running.run_directory, running.weights, running.scores, running.loading
    )


def test_a_run_uses_and_records_what_its_weights_expect(
    pretrained: tuple[Pretraining, Pretrained],
) -> None:
    running, result = pretrained
    written = yaml.safe_load((result.run_directory / "config.yaml").read_text())
    assert written["normalization"] == "inception"
    note = next(note for note in running.notes if note.startswith("images are normalised"))
    assert "mean (0.5, 0.5, 0.5) and std (0.5, 0.5, 0.5)" in note
    assert note.endswith("as the weights expect")
    crops = running.setup.new_loader().crops(0)
    assert crops.min() >= -1 - 1e-5
    assert crops.max() <= 1 + 1e-5


def test_scores_see_images_as_training_does(
    pretrained: tuple[Pretraining, Pretrained], monkeypatch: pytest.MonkeyPatch
) -> None:
    setup, seen = pretrained[0].setup, set()

    def recorded(images: torch.Tensor, expected: Normalization) -> torch.Tensor:
        seen.add(expected)
        return normalize(images, expected)

    monkeypatch.setattr("headsearch.data.domain.normalize", recorded)
    setup.scores(setup.new_trainer("joint").teacher.network)
    assert seen == {NAMED["inception"]}


def test_the_base_is_loaded_with_the_normalisation_that_it_was_trained_with(
    pretrained: tuple[Pretraining, Pretrained],
) -> None:
    running, result = pretrained
    with safe_open(result.weights, framework="pt") as file:
        assert json.loads(file.metadata()["normalization"])["mean"] == [0.5, 0.5, 0.5]
    assert read_weights(result.weights).normalization == NAMED["inception"]
    model = eval(result.loading, {"timm": timm}).eval()
    config = timm.data.resolve_model_data_config(model)
    assert (config["mean"], config["std"]) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert config["input_size"] == (3, 16, 16)
    images = running.setup.data.queries.batch(torch.arange(8))
    loaded = Normalization(config["mean"], config["std"])
    trained = parse(running.config.normalization)
    torch.testing.assert_close(normalize(images, loaded), normalize(images, trained))


def test_weights_that_say_nothing_are_told_beside_what_timms_expect(
    pretrained: tuple[Pretraining, Pretrained],
) -> None:
    setup = pretrained[0].setup
    assert setup.plan.weights is not None
    plan = replace(setup.plan, weights=replace(setup.plan.weights, normalization=None),
                   timm_name="vit_tiny_patch16_224")  # fmt: skip
    config = setup.config.model_copy(update={"normalization": "imagenet"})
    said = normalized_with(replace(setup, plan=plan, config=config))
    assert "does not say which (timm's own expect inception); --normalization sets anot" in said


def test_a_base_from_scratch_and_a_run_older_than_the_setting_have_imagenets(
    tmp_path: Path,
) -> None:
    assert parse(resolve({}).normalization) == IMAGENET
    file = tmp_path / "config.yaml"
    file.write_text("base: test_vit\npretrained: true\nstudy_name: old\n")
    assert resolve({}, file).normalization == "imagenet"
    # Another base brings its own; a file of one's own settings is taken as it is.
    assert resolve({"base": "vit_s"}, file).normalization == "auto"
    file.write_text("base: test_vit\nnormalization: clip\n")
    assert resolve({"pretrained": True}, file).normalization == "clip"
