"""How maps and final features are read from a trunk: a timm model, or a module of one's own.

Shapes: B images, C = 3 channels, S image side; D width of a map, H × W its grid; N tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from timm.layers import DropPath, PatchDropout
from torch import Tensor, nn

KINDS_A_BLOCK = 6
"""With gradients or without; for a whole batch, the last of the images that are scored, or one."""


def has_intermediates(trunk: nn.Module) -> bool:
    """Whether a trunk gives every map, in timm's way; else it gives its last one alone."""
    return callable(getattr(trunk, "forward_intermediates", None))


def all_maps(trunk: Any, images_BCSS: Tensor) -> tuple[list[Tensor], Any]:
    """Every map (B, D, H, W) of a trunk, the earliest first, and its final features.

    Raises:
        ValueError: what the trunk gives is no map and no tokens of a square one.
    """
    if has_intermediates(trunk):
        final, maps = trunk.forward_intermediates(images_BCSS, norm=False, output_fmt="NCHW")
        for found in maps:
            if not isinstance(found, Tensor) or found.ndim != 4:
                raise ValueError(f"forward_intermediates gives {_shown(found)} in place of a map")
        return list(maps), final
    final = _features(trunk, images_BCSS)
    return [as_map(trunk, final)], final


def maps_at(
    trunk: Any, images_BCSS: Tensor, feature_indices: Sequence[int], *, final: bool
) -> tuple[dict[int, Tensor], Any]:
    """The maps at some places, counted from the last, and the final features where asked for."""
    if not has_intermediates(trunk):
        assert set(feature_indices) == {0}, "a trunk without intermediates has one map"
        features = _features(trunk, images_BCSS)
        return {0: as_map(trunk, features)}, features
    found = trunk.forward_intermediates(
        images_BCSS,
        indices=[-1 - feature_index for feature_index in feature_indices],
        norm=False,
        output_fmt="NCHW",
        intermediates_only=not final,
    )
    features, maps = found if final else (None, found)
    in_order = sorted(feature_indices, reverse=True)  # timm returns the earliest first
    return dict(zip(in_order, maps, strict=True)), features


def as_map(trunk: nn.Module, features: object) -> Tensor:
    """Features (B, D, H, W), or tokens (B, N, D) of a square grid, as a map (B, D, H, W).

    Tokens before the patches are left out: as many as the trunk's `num_prefix_tokens` says, else
    one where that leaves a square number of them.
    """
    if isinstance(features, Tensor) and features.ndim == 4:
        if getattr(trunk, "output_fmt", "NCHW") == "NHWC":
            return features.permute(0, 3, 1, 2)
        _, depth, height, width = features.shape
        if depth == height != width:
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
        raise ValueError(f"it gives {count} tokens, which are no square map (less a class token)")
    raise ValueError(
        f"it gives {_shown(features)}; give a map (B, D, H, W) or the tokens (B, N, D) of a square"
    )


def tokens_like(trunk: nn.Module, features: object, map_BDHW: Tensor) -> Tensor | None:
    """Final features as the patch tokens (B, N, D) of a map, None where they are not of its shape.

    Tokens before the patches (class, distillation, registers) are left out.
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
    """The module that makes patches of images, None in a trunk that is not made of patches."""
    for name in ("patch_embed", "stem"):  # an MLP-Mixer calls it the stem
        module = getattr(trunk, name, None)
        if isinstance(module, nn.Module) and hasattr(module, "patch_size"):
            return module
    return None


def make_deterministic(trunk: nn.Module, *, drop_path: bool = False) -> None:
    """Switches off all that timm's models draw at random while they train.

    Args:
        drop_path: leaves the rates of drop path as they are.
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
        if hasattr(module, "jitter_coords"):  # DINOv3's rotary positions move while training
            module.shift_coords = module.jitter_coords = module.rescale_coords = None  # type: ignore[assignment]
            module.aug_active = False  # type: ignore[assignment]
    if not drop_path:
        drop_no_paths(trunk)


def repeated_blocks(trunk: nn.Module) -> list[nn.Module]:
    """The blocks that a trunk is a pile of: children of one kind in a row, the innermost such."""

    def innermost(module: nn.Module) -> list[nn.Module]:
        found = [block for child in module.children() for block in innermost(child)]
        children = list(module.children())
        row = isinstance(module, nn.Sequential | nn.ModuleList) and len(children) > 1
        same = row and len({type(child) for child in children}) == 1
        return found or (children if same and list(children[0].parameters()) else [])

    return innermost(trunk)


def compile_blocks(trunk: nn.Module) -> None:
    """Has torch compile a trunk's repeated blocks when they are first used, each kind once.

    Compiling stands between a block and its caller alone: names, weights and copies are as ever.
    """
    from torch._dynamo import config as limits  # takes a second

    blocks = repeated_blocks(trunk)
    # Blocks of other widths or rates of drop path, with gradients and without, are kinds of their
    # own; beyond its limit torch would run the rest as they are, with a warning alone.
    limits.recompile_limit = max(limits.recompile_limit, KINDS_A_BLOCK * len(blocks))
    for block in blocks:
        block.compile()


def drop_no_paths(module: nn.Module) -> None:
    """Switches off drop path in all of a module."""
    for part in module.modules():
        if isinstance(part, DropPath):
            part.drop_prob = 0.0


def _features(trunk: Any, images_BCSS: Tensor) -> Any:
    features = getattr(trunk, "forward_features", None)
    return (features if callable(features) else trunk)(images_BCSS)


def _prefixes(trunk: nn.Module) -> tuple[int, ...]:
    known = getattr(trunk, "num_prefix_tokens", None)
    return (known,) if isinstance(known, int) else (0, 1)


def _shown(features: object) -> str:
    if isinstance(features, Tensor):
        return f"a tensor of shape {tuple(features.shape)}"
    return f"a {type(features).__name__}"
