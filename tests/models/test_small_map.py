"""Depth-wise convolutions as matrices: the same head, but for how it is computed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from headsearch.models.heads import FAMILIES, build_head, fit_to_map
from headsearch.models.heads.small_map import DepthwiseOnSmallMap

DIM = 8


def outputs_and_gradients(head: nn.Module, maps: torch.Tensor) -> dict[str, torch.Tensor]:
    inputs = maps.clone().requires_grad_()
    head.zero_grad()
    output = head(inputs)
    output.square().sum().backward()
    assert inputs.grad is not None
    found = {"output": output.detach(), "input": inputs.grad}
    return found | {n: p.grad for n, p in head.named_parameters() if p.grad is not None}


def same(plain: nn.Module, grid: tuple[int, int]) -> nn.Module:
    plain = plain.double().train()
    fitted = fit_to_map(copy.deepcopy(plain), grid)
    maps = torch.randn(3, DIM, *grid, dtype=torch.float64)
    expected, found = (outputs_and_gradients(head, maps) for head in (plain, fitted))
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-9, msg=name)
    assert plain.state_dict().keys() == fitted.state_dict().keys()
    return fitted


@pytest.mark.parametrize("kernel", [(7, 7), (5, 5), (3, 9), (31, 1)])
@pytest.mark.parametrize("grid", [(4, 4), (2, 6), (5, 3)])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_a_covering_kernel_computes_the_same_convolution(
    kernel: tuple[int, int], grid: tuple[int, int], dilation: int, bias: bool
) -> None:
    margins = tuple(dilation * (size // 2) for size in kernel)
    conv = nn.Conv2d(DIM, DIM, kernel, padding=margins, dilation=dilation, groups=DIM, bias=bias)
    covers = kernel[0] * kernel[1] >= grid[0] * grid[1]
    assert isinstance(same(conv, grid), DepthwiseOnSmallMap) == covers


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(DIM, DIM, 7, padding=3),
        nn.Conv2d(DIM, DIM, 3, padding=1, groups=DIM),
        nn.Conv2d(DIM, DIM, 7, padding=3, groups=DIM, padding_mode="circular"),
        nn.Conv2d(DIM, DIM, 7, padding=3, groups=2),
    ],
)
def test_other_convolutions_are_left_alone(conv: nn.Conv2d) -> None:
    assert type(same(conv, (4, 4))) is nn.Conv2d


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("grid", [(4, 4), (7, 7)])
def test_every_family_is_the_same_head(family: str, grid: tuple[int, int]) -> None:
    same(build_head(family, DIM, grid, {}), grid)


def test_on_a_map_of_another_size_it_is_the_convolution() -> None:
    """A user's head may pool or turn its map before it convolves."""
    conv = nn.Conv2d(DIM, DIM, 7, padding=3, groups=DIM).double()
    fitted = fit_to_map(copy.deepcopy(conv), (2, 6))
    for grid in ((6, 2), (3, 3), (2, 6)):
        maps = torch.randn(2, DIM, *grid, dtype=torch.float64)
        torch.testing.assert_close(fitted(maps), conv(maps))


def test_a_table_that_would_be_large_is_not_made() -> None:
    conv = nn.Conv2d(DIM, DIM, 27, padding=13, groups=DIM)
    assert type(fit_to_map(conv, (14, 14))) is nn.Conv2d


def test_the_heads_of_a_search_are_fitted_and_the_teacher_s_copies_too() -> None:
    head = fit_to_map(build_head("convnext", DIM, (4, 4), {"kernel": 7}), (4, 4))
    for copied in (head, copy.deepcopy(head)):
        assert any(isinstance(module, DepthwiseOnSmallMap) for module in copied.modules())


def test_under_autocast_it_computes_in_bfloat16_like_the_convolution() -> None:
    conv = nn.Conv2d(DIM, DIM, 7, padding=3, groups=DIM)
    fitted = fit_to_map(copy.deepcopy(conv), (4, 4))
    maps = torch.randn(2, DIM, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = conv(maps), fitted(maps)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), conv(maps), rtol=0.02, atol=0.02)
