"""First weights of a base: from a file or from timm, and back out again."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import yaml

from headsearch.config.settings import resolve
from headsearch.errors import UserError
from headsearch.models.bases import plan_base, pretrained_weights, read_weights
from headsearch.study.setup import prepare, settings_of

SIZE = 32


def model_of(name: str = "test_vit", **arguments: Any) -> torch.nn.Module:
    torch.manual_seed(7)
    return timm.create_model(name, **arguments).eval()


def saved(path: Path, contents: Any) -> Path:
    torch.save(contents, path)
    return path


def features(model: Any, size: int = SIZE) -> torch.Tensor:
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.forward_features(images)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
        lambda state: {"model": {f"module.{k}": v for k, v in state.items()}},
        lambda state: {"teacher": {f"module.backbone.{k}": v for k, v in state.items()}
                       | {"module.head.mlp.0.weight": torch.zeros(3)},
                       "student": {}},
        lambda state: {f"base.trunk.{k}": v for k, v in state.items()},
    ],
)  # fmt: skip
def test_weights_are_found_in_the_usual_wrappers(wrap: Any, tmp_path: Path) -> None:
    model = model_of(img_size=SIZE, patch_size=4)
    path = saved(tmp_path / "w.pth", wrap(model.state_dict()))
    plan = plan_base("test_vit", SIZE, patch_size=4, weights=read_weights(path))
    torch.testing.assert_close(features(plan.build().eval().trunk), features(model))
    assert plan.weights is not None
    assert plan.weights.left_out == ()
    assert plan.weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_weights_of_another_image_and_patch_size_are_resampled_by_timm(tmp_path: Path) -> None:
    own = model_of()  # 160 pixels, patches of 16
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(own.state_dict(), path)
    plan = plan_base("test_vit", 64, patch_size=8, weights=read_weights(path))
    expected = timm.create_model(
        "test_vit", pretrained=True, pretrained_cfg_overlay={"file": str(path)},
        num_classes=0, img_size=64, patch_size=8,
    ).eval()  # fmt: skip
    assert own.pos_embed.shape != expected.pos_embed.shape
    torch.testing.assert_close(features(plan.build().eval().trunk, 64), features(expected, 64))


def test_every_build_starts_from_the_same_weights_whatever_becomes_of_the_file(
    tmp_path: Path,
) -> None:
    path = saved(tmp_path / "w.pth", model_of("test_resnet").state_dict())
    plan = plan_base("test_resnet", SIZE, weights=read_weights(path))
    first = plan.build()
    with torch.no_grad():
        next(first.trunk.parameters()).zero_()
    path.unlink()
    assert torch.equal(plan.build().trunk.conv1[0].weight, model_of("test_resnet").conv1[0].weight)


def test_what_a_trunk_has_no_name_for_is_left_out_and_told(tmp_path: Path) -> None:
    state = {**model_of().state_dict(), "decoder.weight": torch.zeros(3)}
    path = saved(tmp_path / "w.pth", state)
    plan = plan_base("test_vit", SIZE, weights=read_weights(path))
    assert "1 (decoder.weight) in it not used" in str(plan.weights)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("test_vit", lambda state: state.pop("norm.weight"), ["1 (norm.weight) missing"]),
        ("test_vit", lambda state: state.update({"norm.weight": torch.zeros(5)}),
         ["1 (norm.weight (5,) for (64,)) of another shape"]),
        ("test_resnet", lambda state: None, ["missing", "unexpected", "…"]),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_told_in_one_line(
    name: str, change: Any, words: list[str], tmp_path: Path
) -> None:
    state = dict(model_of().state_dict())
    change(state)
    weights = read_weights(saved(tmp_path / "w.pth", state))
    with pytest.raises(UserError, match=r"w\.pth") as error:
        plan_base(name, SIZE, weights=weights)
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


class Code:
    """What runs a command where it is unpickled carelessly."""

    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def test_a_checkpoint_with_code_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "w.pth", {"state_dict": model_of().state_dict(), "x": Code()})
    with pytest.raises(UserError, match=r"w\.pth: refused: .*system") as error:
        read_weights(path)
    assert "\n" not in str(error.value)
    assert not Path("ran").exists()


@pytest.mark.parametrize("name", ["none.pth", "text.pth", "text.safetensors", "empty.pth", "."])
def test_a_file_without_weights_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    if name.startswith("text"):
        (tmp_path / name).write_text("not weights")
    if name == "empty.pth":
        saved(tmp_path / name, {"epoch": 3})
    with pytest.raises(UserError, match=re.escape(str(tmp_path / name))) as error:
        read_weights(tmp_path / name)
    assert "\n" not in str(error.value)


def test_pretrained_weights_are_timms_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "w.pth", model_of().state_dict())
    create = timm.create_model

    def without_network(name: str, **arguments: Any) -> Any:
        overlay = {"file": str(path)} if arguments.get("pretrained") else {}
        return create(name, pretrained_cfg_overlay=overlay, **arguments)

    monkeypatch.setattr(timm, "create_model", without_network)
    plan = plan_base("test_vit", 160, weights=pretrained_weights("test_vit"))
    torch.testing.assert_close(
        features(plan.build().eval().trunk, 160), features(model_of(), 160), rtol=1e-4, atol=1e-5
    )
    assert "test_vit.r160_in1k" in str(plan.weights)


def test_pretrained_weights_that_cannot_be_had_are_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_network(*arguments: Any, **options: Any) -> Any:
        raise ConnectionError("no route to host\nat all")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", no_network)
    with pytest.raises(
        UserError, match=r"--pretrained.*test_vit.*no route to host.*--base-we"
    ) as e:
        pretrained_weights("test_vit")
    assert "\n" not in str(e.value)
    with pytest.raises(UserError, match=r"--pretrained.*mixer_s32_224"):  # timm has none
        pretrained_weights("mixer_s32_224")


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet", "test_resnet"])
def test_what_is_exported_is_loaded_by_timm(name: str, tmp_path: Path) -> None:
    plan = plan_base(name, SIZE)
    base = plan.build().eval()
    path = tmp_path / "exported.safetensors"
    safetensors.torch.save_file(base.weights(), path)
    model = timm.create_model(
        plan.timm_name, num_classes=0, checkpoint_path=str(path), **plan.arguments
    ).eval()
    torch.testing.assert_close(features(model), features(base.trunk))
    assert plan_base(name, SIZE, weights=read_weights(path)).weights is not None


def test_a_run_records_where_its_first_weights_are_from(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", model_of(depth=2).state_dict())
    flags = {"base": "test_vit", "base_args": "depth=2", "base_weights": str(path), "images": 64,
             "trials": 4, "rungs": 1, "eval_images": 32, "bank_images": 32}  # fmt: skip
    prepared = prepare(resolve({**flags, "space": "controls.yaml"}))
    assert any("first weights from" in note for note in prepared.notes)
    written = yaml.safe_load(yaml.safe_dump(settings_of(prepared, tmp_path / "run")))
    assert written["base_weights"] == str(path)
    assert written["first_weights"] == {
        "origin": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()
    }  # fmt: skip
    assert written["base_arguments"]["depth"] == 2
    with pytest.raises(UserError, match="exclude each other"):
        prepare(resolve({**flags, "pretrained": True}))
