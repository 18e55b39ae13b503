"""A module of one's own as a base."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headsearch.errors import UserError
from headsearch.models.bases import plan_module

SIZE, DIM = 32, 24


class Maps(nn.Module):
    """(B, 3, 32, 32) → (B, 24, 4, 4)."""

    def __init__(self, stride: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, DIM, stride, stride)
        self.norm = nn.BatchNorm2d(DIM)
        self.drop = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Any:
        return self.drop(self.norm(self.stem(images)))


class Tokens(Maps):
    """(B, 3, 32, 32) → (B, 16, 24)."""

    def forward(self, images: Tensor) -> Any:
        return super().forward(images).flatten(2).transpose(1, 2)


class ClassToken(Tokens):
    """A class token before the patches, found by `forward_features`."""

    def forward_features(self, images: Tensor) -> Tensor:
        tokens = super().forward(images)
        return torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1)

    def forward(self, images: Tensor) -> Any:
        raise AssertionError("timm's forward is the classifier's")


class Intermediates(Maps):
    """timm's way of giving every map."""

    def forward_intermediates(
        self, x: Tensor, indices: Any = None, norm: bool = False, output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:  # fmt: skip
        first = self.stem(x)
        maps = [first, self.norm(first)]
        chosen = maps if indices is None else [maps[i] for i in sorted(i % 2 for i in indices)]
        return chosen if intermediates_only else (maps[-1], chosen)


@pytest.mark.parametrize("kind", [Maps, Tokens, ClassToken, Intermediates])
def test_a_module_is_a_base_with_its_own_weights_and_is_left_alone(kind: type[Maps]) -> None:
    module = kind()
    before = copy.deepcopy(module.state_dict())
    plan = plan_module(module, SIZE, name="mine")
    base = plan.build()
    images = torch.randn(2, 3, SIZE, SIZE)
    output = base.train()(images, feature_indices=range(len(plan.stages)))

    assert (plan.name, plan.dim, plan.grid) == ("mine", DIM, (4, 4))
    assert len(plan.stages) == (2 if kind is Intermediates else 1)
    assert plan.params_m == pytest.approx(sum(p.numel() for p in module.parameters()) / 1e6)
    assert plan.gflops == pytest.approx(2 * 3 * 64 * DIM * 16 / 1e9)
    expected = module.norm.train()(module.stem(images))
    torch.testing.assert_close(output.maps_BDHW[0], expected)
    torch.testing.assert_close(output.tokens_BND, expected.flatten(2).transpose(1, 2))
    torch.testing.assert_close(output.pooled_BD, expected.mean((2, 3)))
    output.pooled_BD.sum().backward()
    assert base.weights().keys() == before.keys()

    assert module.drop.p == 0.5
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    mask_BHW = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask_BHW[:, 1, 2] = True
    assert not torch.equal(base(images, mask_BHW).pooled_BD, output.pooled_BD)


def test_every_base_starts_from_the_weights_that_the_module_had_when_it_was_planned() -> None:
    module = Maps()
    before = module.stem.weight.detach().clone()
    plan = plan_module(module, SIZE)
    with torch.no_grad():
        module.stem.weight.zero_()
        plan.build().trunk.stem.weight.zero_()
    assert torch.equal(plan.build().trunk.stem.weight, before)


class Noise(Maps):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images) + torch.randn(1)


class Pair(Maps):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images), images


class Pooled(Maps):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images).mean((2, 3))


class ChannelsLast(Maps):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images).permute(0, 2, 3, 1)


class Ragged(Tokens):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images)[:, :11]


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Noise(), ["random"]),
        (Pair(), ["a tuple", "(B, D, H, W)"]),
        (Pooled(), ["(1, 24)", "(B, N, D)"]),
        (ChannelsLast(), ["channels last"]),
        (Ragged(), ["11 tokens", "square"]),
        (Maps(stride=16), ["2×2", "4×4"]),
        (nn.Linear(7, 7), ["(1, 3, 32, 32)", "shapes"]),
        (nn.Identity(), ["no parameters"]),
    ],
)
def test_a_module_that_cannot_serve_says_why(module: nn.Module, words: list[str]) -> None:
    with pytest.raises(UserError, match=type(module).__name__) as error:
        plan_module(module, SIZE)
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)
