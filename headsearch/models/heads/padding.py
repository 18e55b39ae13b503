"""Keeps the padding of maps out of a head, whose outputs then depend on data alone.

Maps of different sizes share a batch by padding. `valid` says where a map holds data. The blocks of
a head come from timm and take no masks, so the masks are put on the modules that mix places, for
the time of one forward pass: convolutions see zeros on padding, attention has no keys there, and
norms and means leave it out. Modules of our own take the mask as their attribute `valid_BHW`.

Shape suffixes: B batch, N tokens, D width, H rows, W columns; G groups, C channels of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from timm.models.vision_transformer import Attention
from timm.models.xcit import XCA
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from headsearch.models.heads.attention import LinearAttention


def run_head(head: nn.Module, map_BDHW: Tensor, valid_BHW: Tensor | None) -> Tensor:
    """The output of a head on a map with padding: zero there, and elsewhere as without padding.

    Args:
        head: a head.
        map_BDHW: its input; what it holds on padding has no effect.
        valid_BHW: bool; True where the map holds data; None if it does so everywhere.
    """
    output_BDHW: Tensor
    if valid_BHW is None:
        output_BDHW = head(map_BDHW)
        return output_BDHW
    # `where`, not a product: padding may hold NaN.
    map_BDHW = torch.where(valid_BHW.unsqueeze(1), map_BDHW, torch.zeros_like(map_BDHW))
    with _padding_kept_out(head, valid_BHW):
        output_BDHW = head(map_BDHW)
    return torch.where(valid_BHW.unsqueeze(1), output_BDHW, torch.zeros_like(output_BDHW))


def masked_mean(tokens_BND: Tensor, valid_BHW: Tensor | None) -> Tensor:
    """The mean (B, D) over the tokens that hold data; zero for a map without any.

    Args:
        tokens_BND: the tokens of maps, row by row.
        valid_BHW: bool; True where a map holds data; None if it does so everywhere.
    """
    if valid_BHW is None:
        return tokens_BND.mean(dim=1)
    valid_BN1 = valid_BHW.flatten(1).unsqueeze(-1)
    sums_BD = torch.where(valid_BN1, tokens_BND, torch.zeros_like(tokens_BND)).sum(dim=1)
    return sums_BD / valid_BN1.sum(dim=1).clamp(min=1)


@contextmanager
def _padding_kept_out(head: nn.Module, valid_BHW: Tensor) -> Iterator[None]:
    """Within this context every module of a head that mixes places leaves padding out."""
    with ExitStack() as undo:
        for module in head.modules():
            for undone in _masked(module, valid_BHW):
                undo.callback(undone)
        yield


def _masked(module: Any, valid_BHW: Tensor) -> Iterator[Callable[[], object]]:
    """Puts the mask on a module, if it mixes places; yields functions that take it off."""
    if hasattr(module, "valid_BHW"):
        module.valid_BHW = valid_BHW
        yield lambda: setattr(module, "valid_BHW", None)
    elif isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
        yield module.register_forward_pre_hook(_zero_padding(valid_BHW)).remove
    elif isinstance(module, Attention | LinearAttention):
        hook = module.register_forward_pre_hook(_only_valid_keys(valid_BHW), with_kwargs=True)
        yield hook.remove
    elif isinstance(module, XCA):
        yield module.qkv.register_forward_hook(_zero_tokens(valid_BHW)).remove
    elif isinstance(module, nn.GroupNorm):
        yield module.register_forward_hook(_group_norm(valid_BHW)).remove
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        vars(module)["forward"] = _BatchNorm(module, valid_BHW)
        yield lambda: delattr(module, "forward")


def _zero_padding(valid_BHW: Tensor) -> Callable[..., Any]:
    def hook(module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return inputs[0] * valid_BHW.unsqueeze(1)

    return hook


def _zero_tokens(valid_BHW: Tensor) -> Callable[..., Any]:
    """For the queries, keys and values of XCiT, whose products are sums over tokens."""

    def hook(module: nn.Module, inputs: object, tokens_BNX: Tensor) -> Tensor:
        return tokens_BNX * valid_BHW.flatten(1).unsqueeze(-1)

    return hook


def _only_valid_keys(valid_BHW: Tensor) -> Callable[..., Any]:
    valid_BN = valid_BHW.flatten(1)
    # Softmax needs a key. A map without data has no output that counts.
    keys_BN = valid_BN | ~valid_BN.any(dim=1, keepdim=True)

    def hook(module: nn.Module, inputs: Any, more: dict[str, Any]) -> Any:
        return inputs, {**more, "attn_mask": keys_BN[:, None, None]}

    return hook


def _group_norm(valid_BHW: Tensor) -> Callable[..., Any]:
    """Computes a group norm again, with mean and variance over the places that hold data."""

    def hook(norm: Any, inputs: tuple[Tensor], output_BDHW: Tensor) -> Tensor:
        groups_BGCHW = inputs[0].unflatten(1, (norm.num_groups, -1))
        valid_B11HW = valid_BHW[:, None, None]
        count = valid_B11HW.sum((2, 3, 4), keepdim=True).clamp(min=1) * groups_BGCHW.shape[2]
        mean = (groups_BGCHW * valid_B11HW).sum((2, 3, 4), keepdim=True) / count
        centred_BGCHW = groups_BGCHW - mean
        squares = centred_BGCHW.square() * valid_B11HW
        variance = squares.sum((2, 3, 4), keepdim=True) / count
        normed = (centred_BGCHW * (variance + norm.eps).rsqrt()).flatten(1, 2)
        normed = _affine(norm, normed)
        activation = getattr(norm, "act", None)  # timm's norms hold the activation behind them
        return (normed if activation is None else activation(normed)).to(output_BDHW.dtype)

    return hook


def _own(sums: Tensor) -> Tensor:
    return sums


def batch_norm_of_valid(
    norm: Any, features: Tensor, valid: Tensor, total: Callable[[Tensor], Tensor] = _own
) -> Tensor:
    """A batch norm in training whose statistics are those of the places with data.

    Like `F.batch_norm`, a `TorchFunctionMode` can replace it: where several processes share a batch
    (`training/sync_batchnorm.py`).

    Args:
        norm: an `nn.BatchNorm1d` or `nn.BatchNorm2d`.
        features: a map (B, D, H, W), or tokens (B, N, D) or (B, H, W, D).
        valid: bool, of the shape of the features but for D, which is 1.
        total: gives the sums over all processes for those of this one.
    """
    if has_torch_function((features, valid)):
        output: Tensor = handle_torch_function(
            batch_norm_of_valid, (features, valid), norm, features, valid, total
        )
        return output
    of_map = isinstance(norm, nn.BatchNorm2d)
    values = features.float() if features.dtype == torch.bfloat16 else features
    axes = (0, 2, 3) if of_map else tuple(range(features.ndim - 1))
    count = total(valid.sum().to(values.dtype)).clamp(min=1)
    mean = total((values * valid).sum(axes, keepdim=True)) / count
    centred = values - mean
    variance = total((centred.square() * valid).sum(axes, keepdim=True)) / count
    _remember(norm, mean.flatten(), variance.flatten() * count / (count - 1).clamp(min=1))
    normed = centred * (variance + norm.eps).rsqrt()
    return _affine(norm, normed) if of_map else normed * norm.weight + norm.bias


@torch.no_grad()
def _remember(norm: Any, mean_D: Tensor, variance_D: Tensor) -> None:
    """Moves the running statistics, as batch norm does."""
    assert norm.momentum is not None
    norm.running_mean.lerp_(mean_D.to(norm.running_mean), norm.momentum)
    norm.running_var.lerp_(variance_D.to(norm.running_var), norm.momentum)
    norm.num_batches_tracked.add_(1)


class _BatchNorm:
    """The forward of a batch norm that leaves padding out of its statistics in training."""

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, valid_BHW: Tensor) -> None:
        self.norm, self.valid_BHW = norm, valid_BHW

    def __call__(self, features: Tensor) -> Tensor:
        """Of a map (B, D, H, W), or of tokens (B, N, D) or (B, H, W, D)."""
        norm = self.norm
        if not norm.training:
            return type(norm).forward(norm, features)
        of_map = isinstance(norm, nn.BatchNorm2d)
        valid = self.valid_BHW.unsqueeze(1) if of_map else self._per_token(features)
        return batch_norm_of_valid(norm, features, valid)

    def _per_token(self, tokens: Tensor) -> Tensor:
        return self.valid_BHW.reshape(*tokens.shape[:-1], 1)


def _affine(norm: Any, map_BDHW: Tensor) -> Tensor:
    """The map times a norm's weights, plus its biases, where it has them."""
    output_BDHW: Tensor = map_BDHW * norm.weight[:, None, None]
    return output_BDHW if norm.bias is None else output_BDHW + norm.bias[:, None, None]
