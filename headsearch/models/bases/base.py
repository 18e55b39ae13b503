"""A trunk behind the one interface that heads and objectives use.

Shapes: B images, C = 3 channels, S image side; D width of the last map, H × W its grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.mlp_mixer import MlpMixer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from headsearch.models.bases.patches import make_patches_by_products
from headsearch.models.bases.trunk import make_deterministic, maps_at, patch_embedding, tokens_like

PLAIN_TRANSFORMERS = (VisionTransformer, Eva, Beit, MlpMixer)
"""timm's models whose patches keep their grid from the first block to the last."""


class BaseOutput(NamedTuple):
    """What a base makes of a batch of images."""

    maps_BDHW: dict[int, Tensor]
    """Patch tokens as maps, before the base's final norm: at 0 of the last block (the last stage,
    in a base of stages), at k of the one k before it. D, H and W are those of `BasePlan.stages`."""
    tokens_BND: Tensor
    """The last patch tokens, after the base's final norm where that comes before pooling."""
    pooled_BD: Tensor
    """The base's own summary of an image: its class token or mean, after its final norm."""


class Reading(NamedTuple):
    """Which of a trunk's last steps fit its last map; `shapes.measure` finds them out."""

    final_tokens: bool = True
    """The final features are the tokens of the last map, normed. Not so in an EfficientNet, which
    ends by widening its map for the classifier; there the last map's own tokens are taken."""
    own_summary: bool = True
    """The trunk's own pooling gives (B, D). Else the mean over tokens is taken."""


WHOLE = Reading()
"""All of a trunk's last steps are used."""


class Base(nn.Module):
    """A model behind the one interface that heads and objectives use.

    Nothing in it is random, drop path apart: what it computes depends on its weights and the
    images alone.

    Args:
        trunk: timm's model without a classifier, or a module like those `plan_module` takes.
        reading: which of its last steps are used.
        drop_path: whether it keeps its rates of drop path, which act in training mode.

    Attributes:
        trunk: the same model, whose parameters keep their own names.
        mask_token: what stands in place of a masked patch, in a base of patches of one size; such
            a base masks tokens, as iBOT does (arXiv 2111.07832). In others masked pixels get the
            mean colour.
    """

    def __init__(
        self, trunk: nn.Module, reading: Reading = WHOLE, *, drop_path: bool = False
    ) -> None:
        super().__init__()
        self.trunk: Any = trunk
        self.reading = reading
        width: Any = trunk.embed_dim if isinstance(trunk, PLAIN_TRANSFORMERS) else None
        self.mask_token = None if width is None else nn.Parameter(torch.zeros(width))
        make_deterministic(trunk, drop_path=drop_path)
        make_patches_by_products(trunk)

    def forward(
        self,
        images_BCSS: Tensor,
        mask_BHW: Tensor | None = None,
        feature_indices: Sequence[int] = (0,),
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
            maps, final = maps_at(self.trunk, images_BCSS, feature_indices, final=any(self.reading))
        tokens_BND = maps[0].flatten(2).transpose(1, 2)
        if self.reading.final_tokens:
            normed_BND = tokens_like(self.trunk, final, maps[0])
            assert normed_BND is not None, "the plan has seen it fit"
            tokens_BND = normed_BND
        pooled_BD = (
            self.trunk.forward_head(final, pre_logits=True)
            if self.reading.own_summary
            else tokens_BND.mean(dim=1)
        )
        return BaseOutput(maps, tokens_BND, pooled_BD)

    def weights(self) -> dict[str, Tensor]:
        """The trunk's weights and buffers alone, under their own names: what timm loads.

        A model made by `timm.create_model(timm_name, num_classes=0, **plan.arguments)` takes them
        all. They share memory with the base.
        """
        return {name: tensor.detach() for name, tensor in self.trunk.state_dict().items()}

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

        embedding = patch_embedding(self.trunk)
        assert embedding is not None
        handle = embedding.register_forward_hook(mask)
        try:
            yield
        finally:
            handle.remove()


def _without_pixels(images_BCSS: Tensor, mask_BHW: Tensor) -> Tensor:
    """Normalised images whose masked patches have the mean colour, which is 0."""
    mask_B1HW = mask_BHW.unsqueeze(1).to(images_BCSS.dtype)
    mask_B1SS = F.interpolate(mask_B1HW, size=images_BCSS.shape[-2:], mode="nearest")
    return images_BCSS * (1 - mask_B1SS)
