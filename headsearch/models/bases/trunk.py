"""Functions on a trunk (timm's model or a user's module): read its maps, fix its random parts.

Shapes: B images, C = 3 channels, S image side; D width of a map, H × W its grid; N tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from timm.layers import DropPath, PatchDropout
from torch import Tensor, nn

from headsearch.text import with_article

KINDS_A_BLOCK = 6
"""Compiled versions of a block: with or without gradients, times three batch sizes (a training
batch, the last partial batch of the images that are scored, and a single image)."""


def has_intermediates(trunk: nn.Module) -> bool:
    """Whether a trunk returns all its maps by timm's interface, rather than only the last one."""
    return callable(getattr(trunk, "forward_intermediates", None))


def all_maps(trunk: Any, images_BCSS: Tensor) -> tuple[list[Tensor], Any]:
    """Every map (B, D, H, W) of a trunk, the earliest first, and its final features.

    Raises:
        ValueError: the output of the trunk is neither a map nor the tokens of a square map.
    """
    if has_intermediates(trunk):
        final, maps = trunk.forward_intermediates(images_BCSS, norm=False, output_fmt="NCHW")
        for map_BDHW in maps:
            if not isinstance(map_BDHW, Tensor) or map_BDHW.ndim != 4:
                raise ValueError(
                    f"forward_intermediates gives {_shown(map_BDHW)} in place of a map"
                )
        return list(maps), final
    final = _features(trunk, images_BCSS)
    return [as_map(trunk, final)], final


def maps_at(
    trunk: Any, images_BCSS: Tensor, feature_indices: Sequence[int], *, final: bool
) -> tuple[dict[int, Tensor], Any]:
    """The maps at these indices, counted from the last, and the final features if `final` is set.

    A trunk with intermediates then skips its final norm and pooling where they are not needed.
    """
    if not has_intermediates(trunk):
        assert set(feature_indices) == {0}, "a trunk without intermediates has one map"
        features = _features(trunk, images_BCSS)
        return {0: as_map(trunk, features)}, features
    output = trunk.forward_intermediates(
        images_BCSS,
        indices=[-1 - feature_index for feature_index in feature_indices],
        norm=False,
        output_fmt="NCHW",
        intermediates_only=not final,
    )
    features, maps = output if final else (None, output)
    in_order = sorted(feature_indices, reverse=True)  # timm returns the earliest first
    return dict(zip(in_order, maps, strict=True)), features


def as_map(trunk: nn.Module, features: object) -> Tensor:
    """Converts features (B, D, H, W), or tokens (B, N, D) of a square grid, to a map (B, D, H, W).

    Prefix tokens, those before the patches, are dropped. Their number is the trunk's
    `num_prefix_tokens`; without that attribute, it is 0 or 1, whichever leaves a square number.

    Raises:
        ValueError: the features have none of these shapes.
    """
    if isinstance(features, Tensor) and features.ndim == 4:
        if getattr(trunk, "output_fmt", "NCHW") == "NHWC":
            return features.permute(0, 3, 1, 2)
        _, depth, height, width = features.shape
        if depth == height != width:  # (B, H, W, D) of a square map
            raise ValueError(
                f"it gives {_shown(features)}, which looks like channels last; give (B, D, H, W)"
            )
        return features
    if isinstance(features, Tensor) and features.ndim == 3:
        count = features.shape[1]
        for prefix in _prefixes(trunk):
            side = math.isqrt(max(0, count - prefix))
            if side > 0 and side * side == count - prefix:
                tokens_BDN = features[:, prefix:].transpose(1, 2)
                return tokens_BDN.reshape(len(features), -1, side, side)
        raise ValueError(
            f"it gives {count} tokens, which are not those of a square map, with or without a "
            "class token"
        )
    raise ValueError(
        f"it gives {_shown(features)}; give a map (B, D, H, W) or the tokens (B, N, D) of a square"
    )


def tokens_like(trunk: nn.Module, features: object, map_BDHW: Tensor) -> Tensor | None:
    """The patch tokens (B, N, D) among the final features; None if they do not match the map.

    Prefix tokens (class, distillation, registers) are dropped.
    """
    count, depth, height, width = map_BDHW.shape
    if not isinstance(features, Tensor):
        return None
    channels_last = getattr(trunk, "output_fmt", "NCHW") == "NHWC"
    if channels_last and features.shape == (count, height, width, depth):
        return features.flatten(1, 2)
    if not channels_last and features.shape == map_BDHW.shape:
        return features.flatten(2).transpose(1, 2)
    if features.ndim == 3 and features.shape[2] == depth:
        prefix = features.shape[1] - height * width
        return features[:, prefix:] if prefix >= 0 else None
    return None


def patch_embedding(trunk: nn.Module) -> nn.Module | None:
    """The module that embeds image patches; None in a trunk without one."""
    for name in ("patch_embed", "stem"):  # timm's MLP-Mixer calls it `stem`
        module = getattr(trunk, name, None)
        if isinstance(module, nn.Module) and hasattr(module, "patch_size"):
            return module
    return None


def make_deterministic(trunk: nn.Module, *, drop_path: bool = False) -> None:
    """Switches off every random operation of timm's models in training mode, in place.

    A base's random draws would depend on the heads that train with it, so that candidates of
    different cohorts could not be compared.

    Args:
        trunk: the module to change.
        drop_path: keep the drop path rates.
    """
    for module in trunk.modules():
        if isinstance(module, DropPath):
            continue
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, PatchDropout):
            module.prob = 0.0
        for name, value in list(vars(module).items()):
            if isinstance(value, float) and "drop" in name:  # rates of functional dropout
                setattr(module, name, 0.0)
        if hasattr(module, "jitter_coords"):  # DINOv3 jitters its rotary positions in training
            module.shift_coords = module.jitter_coords = module.rescale_coords = None  # type: ignore[assignment]
            module.aug_active = False  # type: ignore[assignment]
    if not drop_path:
        drop_no_paths(trunk)


def repeated_blocks(trunk: nn.Module, fewest: int = 2) -> list[nn.Module]:
    """The repeated blocks of a trunk: the innermost sequences of modules of one class.

    A sequence is an `nn.Sequential` or `nn.ModuleList` of children with parameters.

    Args:
        trunk: the module.
        fewest: the least number of children of a sequence.
    """

    def innermost(module: nn.Module) -> list[nn.Module]:
        blocks = [block for child in module.children() for block in innermost(child)]
        children = list(module.children())
        sequence = isinstance(module, nn.Sequential | nn.ModuleList) and len(children) >= fewest
        same_class = sequence and len({type(child) for child in children}) == 1
        return blocks or (children if same_class and list(children[0].parameters()) else [])

    return innermost(trunk)


def compile_blocks(trunk: nn.Module) -> None:
    """Lets `torch.compile` compile the repeated blocks of a trunk when they are first called.

    Blocks of the same kind share one compiled version. Names of modules, weights and copies of the
    trunk do not change, since `nn.Module.compile` only wraps the call of a block.
    """
    from torch._dynamo import config as limits  # imported here: it takes a second

    blocks = repeated_blocks(trunk)
    # Blocks with another width or drop path rate, and calls with and without gradients, compile
    # separately. Beyond its limit torch runs the remaining ones uncompiled, with only a warning.
    limits.recompile_limit = max(limits.recompile_limit, KINDS_A_BLOCK * len(blocks))
    for block in blocks:
        block.compile()


def drop_no_paths(module: nn.Module) -> None:
    """Sets the rate of every drop path in a module to 0."""
    for part in module.modules():
        if isinstance(part, DropPath):
            part.drop_prob = 0.0


def _features(trunk: Any, images_BCSS: Tensor) -> Any:
    """The output of timm's `forward_features`, or of the module itself if it has no such method."""
    forward_features = getattr(trunk, "forward_features", None)
    return (forward_features if callable(forward_features) else trunk)(images_BCSS)


def _prefixes(trunk: nn.Module) -> tuple[int, ...]:
    """The numbers of prefix tokens to try."""
    count = getattr(trunk, "num_prefix_tokens", None)
    return (count,) if isinstance(count, int) else (0, 1)


def _shown(features: object) -> str:
    """A short description of an output, for messages."""
    if isinstance(features, Tensor):
        return f"a tensor of shape {tuple(features.shape)}"
    return with_article(type(features).__name__)
