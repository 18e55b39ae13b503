"""Any timm model as a base: images → patch-token map, grid and pooled features.

Shapes: B images, C = 3 channels, S image side; D width of the last map, H × W its grid.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.mlp_mixer import MlpMixer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from headsearch.errors import UserError, unknown

ALIASES = {
    "vit_t": "vit_tiny_patch16_224",
    "vit_s": "vit_small_patch16_224",
    "vit_b": "vit_base_patch16_224",
    "convnext_t": "convnext_tiny",
    "swin_t": "swin_tiny_patch4_window7_224",
}
"""Short names for common bases; every timm name works as it is."""

OWN_FAMILY = {
    "vision_transformer": "attention",
    "deit": "attention",
    "eva": "attention",
    "convnext": "convnext",
    "resnet": "bottleneck",
    "swin_transformer": "swin",
    "mlp_mixer": "mixer",
    "metaformer": "poolformer",
    "mambaout": "mambaout",
}
"""timm's module → the head family that is built like the base: what the control `own` means."""

PLAIN_TRANSFORMERS = (VisionTransformer, Eva, Beit, MlpMixer)
"""timm's models whose patches keep their grid from the first block to the last."""

SMALLEST_GRID = 4
"""A map of fewer tokens a side leaves windows, kernels and pooling nothing to differ in."""

GOOD_GRID = 7
"""The map looked for where it is affordable: 8×8 on small images, 7×7 at stride 32 of 224."""

AFFORDABLE_GFLOPS = 0.5
"""What one image may cost a base on a CPU for the good grid to be chosen over the smallest."""


class BaseOutput(NamedTuple):
    """What a base makes of a batch of images."""

    maps_BDHW: dict[int, Tensor]
    """Patch tokens as maps, before the base's final norm: at 0 of the last block (the last stage,
    in a base of stages), at k of the one k before it. D, H and W are those of `BasePlan.stages`."""
    tokens_BND: Tensor
    """The last patch tokens, after the base's final norm where that comes before pooling."""
    pooled_BD: Tensor
    """The base's own summary of an image: its class token or mean, after its final norm."""


class Stage(NamedTuple):
    """The shape of a map that a head can be attached to."""

    dim: int
    grid: tuple[int, int]


@dataclass(frozen=True)
class BasePlan:
    """A base fitted to an image size: what to build, and its shape and cost."""

    name: str
    timm_name: str
    image_size: int
    stages: tuple[Stage, ...]
    """The maps that the base offers: the last one, the one before it, …"""
    own_family: str | None
    """The head family that is built like the base, None where there is none."""
    params_m: float
    gflops: float
    """GFLOPs (2 × multiply-adds) of one forward of one image."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of `timm.create_model` beyond the name."""

    def build(self, drop_path: float = 0.0) -> Base:
        """The base itself, on torch's default device; its weights are drawn from torch's seed.

        Args:
            drop_path: the rate at the last block, from which it falls linearly to 0 at the first.

        Raises:
            UserError: this base drops no paths.
        """
        try:
            return _build(self.timm_name, self.arguments, drop_path)
        except TypeError:
            if not drop_path:
                raise
            raise UserError(f"base {self.name!r} has no paths to drop, as --recipe asks") from None

    @property
    def dim(self) -> int:
        """The width of the last map."""
        return self.stages[0].dim

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the last map."""
        return self.stages[0].grid

    def __str__(self) -> str:
        height, width = self.grid
        chosen = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in
                           self.arguments.items() if key != "img_size")  # fmt: skip
        return (
            f"{self.name} ({self.timm_name}) on {self.image_size}×{self.image_size} images"
            f"{', ' + chosen if chosen else ''}: a {height}×{width} map of width {self.dim}, "
            f"{self.params_m:.1f} M parameters, {self.gflops:.2f} GFLOPs an image"
        )


class Base(nn.Module):
    """A model behind the one interface that heads and objectives use.

    Nothing in it is random, drop path apart: what it computes depends on its weights and the
    images alone.

    Args:
        trunk: timm's model, without a classifier.
        drop_path: whether it keeps its rates of drop path, which act in training mode.

    Attributes:
        trunk: the same model, whose parameters keep timm's own names.
        mask_token: what stands in place of a masked patch, in a base of patches of one size; such
            a base masks tokens, as iBOT does (arXiv 2111.07832). In others masked pixels get the
            mean colour.
    """

    def __init__(self, trunk: nn.Module, *, drop_path: bool = False) -> None:
        super().__init__()
        self.trunk: Any = trunk
        width: Any = trunk.embed_dim if isinstance(trunk, PLAIN_TRANSFORMERS) else None
        self.mask_token = None if width is None else nn.Parameter(torch.zeros(width))
        for module in self.trunk.modules():  # what some models drop by default
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        if not drop_path:
            drop_no_paths(self)

    def forward(
        self,
        images_BCSS: Tensor,
        mask_BHW: Tensor | None = None,
        places: Sequence[int] = (0,),
    ) -> BaseOutput:
        """What the base makes of images.

        Args:
            images_BCSS: normalised images.
            mask_BHW: bool on the grid of the last map: patches that the base must not see.
            places: which maps to return, counted from the last; 0 must be among them.
        """
        if mask_BHW is not None and self.mask_token is None:
            images_BCSS = _without_pixels(images_BCSS, mask_BHW)
            mask_BHW = None
        with self._masked_patches(mask_BHW):
            final, maps = self.trunk.forward_intermediates(
                images_BCSS,
                indices=[-1 - place for place in places],
                norm=False,
                output_fmt="NCHW",
            )
        in_order = sorted(places, reverse=True)  # timm returns the earliest first
        return BaseOutput(
            dict(zip(in_order, maps, strict=True)),
            self._tokens(final),
            self.trunk.forward_head(final, pre_logits=True),
        )

    def _tokens(self, final: Tensor) -> Tensor:
        """The trunk's final features as patch tokens (B, N, D)."""
        if final.ndim == 3:
            return final[:, getattr(self.trunk, "num_prefix_tokens", 0) :]
        if getattr(self.trunk, "output_fmt", "NCHW") == "NHWC":
            return final.flatten(1, 2)
        return final.flatten(2).transpose(1, 2)

    @contextmanager
    def _masked_patches(self, mask_BHW: Tensor | None) -> Iterator[None]:
        """In this block the trunk's patch embedding gives the mask token for masked patches."""
        if mask_BHW is None:
            yield
            return

        def mask(module: nn.Module, inputs: Any, patches_BND: Tensor) -> Tensor:
            assert self.mask_token is not None
            token_D = self.mask_token.to(patches_BND.dtype)
            masked_B = mask_BHW.reshape(*patches_BND.shape[:-1], 1)
            return torch.where(masked_B, token_D, patches_BND)

        handle = self.trunk.patch_embed.register_forward_hook(mask)
        try:
            yield
        finally:
            handle.remove()


def _without_pixels(images_BCSS: Tensor, mask_BHW: Tensor) -> Tensor:
    """Normalised images whose masked patches have the mean colour, which is 0."""
    mask_B1HW = mask_BHW.unsqueeze(1).to(images_BCSS.dtype)
    mask_B1SS = F.interpolate(mask_B1HW, size=images_BCSS.shape[-2:], mode="nearest")
    return images_BCSS * (1 - mask_B1SS)


def timm_name_of(name: str) -> str:
    """timm's name of a base. Raises UserError for a name that neither knows."""
    timm_name = ALIASES.get(name, name)
    if not timm.is_model(timm_name):
        raise unknown("base", name, _similar_names(name))
    return timm_name


def plan_base(
    name: str, image_size: int, *, patch_size: int | None = None, accelerator: bool = False
) -> BasePlan:
    """Fits the base `name` to square images of `image_size` pixels.

    The model is changed as little as possible: its own patch and stride where they leave a map of
    7×7 tokens or more, else the largest patch (or output stride) that gives such a map where that
    is affordable, and one of at least 4×4 where it is not. Shapes and GFLOPs are found on the meta
    device, without computing anything.

    Args:
        name: an alias of `ALIASES` or a timm model name.
        image_size: side of the images in pixels.
        patch_size: the patch side in pixels, for models that have one; chosen when None.
        accelerator: whether the run has one; then the larger map is always affordable.

    Raises:
        UserError: no such model, or it gives no usable map at this image size.
    """
    timm_name = timm_name_of(name)
    coarse: BasePlan | None = None
    too_coarse: BasePlan | None = None
    for arguments in _argument_choices(timm_name, image_size, patch_size):  # coarsest map first
        plan = _try_plan(name, timm_name, image_size, arguments)
        if plan is None:
            continue
        if min(plan.grid) < SMALLEST_GRID:
            too_coarse = plan
        elif min(plan.grid) >= GOOD_GRID or patch_size is not None:
            affordable = accelerator or plan.gflops <= AFFORDABLE_GFLOPS
            return plan if affordable or coarse is None else coarse
        elif coarse is None:
            coarse = plan
    if coarse is not None:
        return coarse
    at = f"at --image-size {image_size}{f' and --patch-size {patch_size}' if patch_size else ''}"
    if too_coarse is None:
        raise UserError(f"base {name!r} cannot be built {at}, or gives no map of tokens")
    raise UserError(
        f"base {name!r} gives a map of {too_coarse.grid[0]}×{too_coarse.grid[1]} tokens {at}; "
        f"heads need {SMALLEST_GRID}×{SMALLEST_GRID} or more: use larger images"
        f"{' or smaller patches' if patch_size else ''}"
    )


def drop_no_paths(module: nn.Module) -> None:
    """Switches off drop path in all of a module."""
    for part in module.modules():
        if isinstance(part, DropPath):
            part.drop_prob = 0.0


def _build(timm_name: str, arguments: Mapping[str, Any], drop_path: float = 0.0) -> Base:
    if drop_path:
        arguments = {**arguments, "drop_path_rate": drop_path}
    trunk = timm.create_model(timm_name, num_classes=0, **arguments)
    return Base(trunk, drop_path=drop_path > 0)


def _argument_choices(
    timm_name: str, image_size: int, patch_size: int | None
) -> Iterator[dict[str, Any]]:
    """Ways to build the model, from the least changed, which has the coarsest map, to the most."""
    if patch_size is not None:
        yield {"img_size": image_size, "patch_size": patch_size}
        return
    own = _own_patch(timm_name)
    for patch in sorted({own, 16, 14, 8, 4, 2, 1}, reverse=True) if own else []:
        if patch <= own and image_size % patch == 0:
            yield {"img_size": image_size, "patch_size": patch}
    yield {"img_size": image_size}
    yield {}
    for stride in (16, 8):
        yield {"output_stride": stride}


def _own_patch(timm_name: str) -> int:
    """The patch side that the model has by itself, 0 if it is not made of patches."""
    with torch.device("meta"):
        model = timm.create_model(timm_name, num_classes=0)
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", 0)
    return int(patch[0] if isinstance(patch, tuple) else patch)


def _try_plan(
    name: str, timm_name: str, image_size: int, arguments: dict[str, Any]
) -> BasePlan | None:
    """The model built with these arguments, or None where it does not take them."""
    images = torch.empty(1, 3, image_size, image_size, device="meta")
    try:
        with torch.device("meta"):
            base = _build(timm_name, arguments).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            base(images)
        with torch.no_grad():
            maps = base.trunk.forward_intermediates(images, norm=False, intermediates_only=True)
    except (TypeError, ValueError, AssertionError, RuntimeError, AttributeError):
        # timm's models refuse an argument or a size in as many ways as there are models
        return None
    shapes = [m.shape[1:] for m in reversed(maps)]
    module = timm.model_entrypoint(timm_name).__module__.rsplit(".", 1)[-1]
    return BasePlan(
        name=name,
        timm_name=timm_name,
        image_size=image_size,
        stages=tuple(Stage(dim, (height, width)) for dim, height, width in shapes),
        own_family=OWN_FAMILY.get(module),
        params_m=sum(parameter.numel() for parameter in base.trunk.parameters()) / 1e6,
        gflops=counter.get_total_flops() / 1e9,
        arguments=arguments,
    )


def _similar_names(name: str) -> list[str]:
    """The aliases and timm's closest names: all of timm is too long a list to print."""
    return [*ALIASES, *difflib.get_close_matches(name, timm.list_models(), n=8, cutoff=0.6)]
