"""Checkpoints of common training codes as first weights, and files that are refused."""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor

from headsearch.errors import UserError
from headsearch.models.bases import plan_base, read_weights
from headsearch.models.bases.plan import BasePlan

State = Mapping[str, Tensor]


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(7)
    return timm.create_model("test_vit", img_size=32, patch_size=4, num_classes=0).state_dict()


def planned(path: Path, prefix: str | None = None) -> BasePlan:
    return plan_base("test_vit", 32, patch_size=4, weights=read_weights(path, prefix))


def saved(path: Path, contents: Any) -> Path:
    torch.save(contents, path)
    return path


def under(prefix: str, state: State) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def zeros(state: State) -> dict[str, Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in state.items()}


def chunked(state: State) -> dict[str, Tensor]:
    """As DINOv2 names its blocks: the chunk comes before the number of the block."""
    return {
        re.sub(r"^blocks\.(\d+)\.", lambda m: f"blocks.{int(m[1]) // 3}.{m[1]}.", name): tensor
        for name, tensor in state.items()
    }


FORMS: dict[str, tuple[Callable[[State], Any], str]] = {
    # name: (the checkpoint made of a state dict, the prefix that is taken)
    "bare": (lambda s: dict(s), ""),
    "net": (lambda s: {"net": s, "epoch": 3}, "net."),
    "model_state": (lambda s: {"model_state": s}, "model_state."),
    "model_state_dict": (lambda s: {"model_state_dict": s}, "model_state_dict."),
    "a key of one's own": (lambda s: {"my_vit": {"inner": s}}, "my_vit.inner."),
    "MoCo v3": (
        lambda s: {"state_dict": under("module.base_encoder.", s)
                   | under("module.momentum_encoder.", zeros(s))},
        "state_dict.module.base_encoder.",
    ),
    "MoCo": (
        lambda s: {"state_dict": under("module.encoder_q.", s)
                   | under("module.encoder_k.", zeros(s))},
        "state_dict.module.encoder_q.",
    ),
    "DINO": (
        lambda s: {"student": under("module.backbone.", zeros(s)),
                   "teacher": under("backbone.", s)},
        "teacher.backbone.",
    ),
    "DINOv2": (
        lambda s: {"model": under("teacher.backbone.", chunked(s))
                   | under("student.backbone.", zeros(chunked(s)))},
        "model.teacher.backbone.",
    ),
    "student_backbone": (lambda s: under("student_backbone.", s), "student_backbone."),
    "Lightly": (lambda s: {"state_dict": under("backbone.vit.", s)}, "state_dict.backbone.vit."),
    "BYOL": (
        lambda s: under("online_backbone.", s) | under("target_backbone.", zeros(s)),
        "online_backbone.",
    ),
    "only a target": (lambda s: under("target_network.", s), "target_network."),
    "I-JEPA": (
        lambda s: {"encoder": under("module.", zeros(s)), "target_encoder": under("module.", s)},
        "target_encoder.module.",
    ),
    "an average beside": (lambda s: under("model.", zeros(s)) | under("ema.", s), "ema."),
    "distilled from a larger one": (
        lambda s: {"teacher": {k: torch.zeros(2, *v.shape) for k, v in s.items()}, "student": s},
        "student.",
    ),
    "timm": (lambda s: {"state_dict": zeros(s), "state_dict_ema": s}, "state_dict_ema."),
    "compiled": (lambda s: under("_orig_mod.", s), ""),
    "FSDP": (
        lambda s: {re.sub(r"^(blocks\.\d+\.)", r"\1_fsdp_wrapped_module.", k): v
                   for k, v in s.items()},
        "",
    ),
    "optimizer beside": (
        lambda s: {**s, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}}, "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_weights_of_common_codes_are_found(
    form: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    make, prefix = FORMS[form]
    plan = planned(saved(tmp_path / "w.pth", make(state)))
    assert plan.weights is not None
    assert plan.weights.prefix == prefix
    assert plan.weights.left_out == ()
    for name, tensor in plan.weights.state.items():
        assert torch.equal(tensor, state[name]), name


def test_the_copy_that_is_taken_is_named_and_so_are_the_others(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = saved(tmp_path / "w.pth", under("model.", zeros(state)) | under("ema.", state))
    plan = planned(path)
    assert "those under 'ema' in it (--weights-prefix takes others: 'model')" in str(plan.weights)
    for spelled in ("model", "model."):
        other = planned(path, spelled).weights
        assert other is not None
        assert not other.state["norm.weight"].any()
    with pytest.raises(UserError, match=r"unknown --weights-prefix 'modle'.*model\."):
        planned(path, "modle")


def test_names_that_timm_converts_are_found_behind_prefixes(tmp_path: Path) -> None:
    torch.manual_seed(3)
    own = timm.create_model("test_convnext", num_classes=0).state_dict()
    back = {"stem.0": "downsample_layers.0.0", "stem.1": "downsample_layers.0.1"}
    original = {}
    for name, tensor in own.items():
        name = re.sub(r"^stem\.(\d)", lambda m: back[m[0]], name)
        name = re.sub(r"^stages\.(\d)\.blocks\.(\d)", r"stages.\1.\2", name)
        name = re.sub(r"^stages\.(\d)\.downsample\.(\d)", r"downsample_layers.\1.\2", name)
        name = name.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        original[name.replace("head.norm.", "norm.")] = tensor
    path = saved(tmp_path / "w.pth", {"teacher": under("module.backbone.", original)})
    plan = plan_base("test_convnext", 64, weights=read_weights(path))
    assert plan.weights is not None
    assert plan.weights.prefix == "teacher.module.backbone."
    assert all(torch.equal(tensor, own[name]) for name, tensor in plan.weights.state.items())


def test_numbers_settings_and_paths_beside_the_weights_are_read_over(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    beside = {
        "best": np.float64(71.5), "curve": np.arange(3), "path": PurePosixPath("/runs/1"),
        "out": Path("x"), "args": SimpleNamespace(lr=np.float32(0.1)),
    }  # fmt: skip
    plan = planned(saved(tmp_path / "w.pth", {"state_dict": state, **beside}))
    assert plan.weights is not None
    assert torch.equal(plan.weights.state["norm.bias"], state["norm.bias"])


class Code:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def bomb(path: Path) -> None:
    file = io.BytesIO()
    torch.save({"norm.weight": torch.zeros(2**22)}, file)
    with (
        zipfile.ZipFile(file) as plain,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))


def integers(path: Path) -> None:
    state = timm.create_model("test_vit", img_size=32, patch_size=4, num_classes=0).state_dict()
    torch.save({name: tensor.mul(100).to(torch.int8) for name, tensor in state.items()}, path)


def not_a_number(path: Path) -> None:
    state = timm.create_model("test_vit", img_size=32, patch_size=4, num_classes=0).state_dict()
    safetensors.torch.save_file(
        {name: torch.full_like(tensor, torch.nan) for name, tensor in state.items()}, path
    )


def whole_model(path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), path)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "w.pt": (bomb, "unpack to"),
    "fifo.pth": (os.mkfifo, "not a regular file"),
    "int8.pth": (integers, "is int8, but weights must be floating point"),
    "nan.safetensors": (not_a_number, "not finite"),
    "expanded.pth": (
        lambda path: torch.save({"norm.weight": torch.zeros(1).expand(2**33)}, path),
        "more values than the file holds",
    ),
    "code.pth": (lambda path: torch.save({"x": Code()}, path), "posix.system.*safetensors.torch"),
    "model.pth": (whole_model, "Linear.*safetensors.torch.save_file"),
    "text.pth": (lambda path: path.write_text("not weights"), "neither safetensors nor a torch"),
    "script.pth": (
        lambda path: torch.jit.script(torch.nn.ReLU()).save(str(path)), "a TorchScript archive",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_serve_is_refused_in_one_line_of_our_own(name: str, tmp_path: Path) -> None:
    make, words = REFUSED[name]
    make(tmp_path / name)
    with pytest.raises(UserError, match=words) as error:
        planned(tmp_path / name)
    assert "\n" not in str(error.value)
    assert "weights_only" not in str(error.value)
    assert str(tmp_path / name) in str(error.value)
