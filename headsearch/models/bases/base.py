"""`Base`: wraps a timm model or a user's module so that heads and objectives can read its maps.

The wrapped model is called the trunk.

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

from headsearch.models.bases.conformer import Conformer
from headsearch.models.bases.patches import make_patches_by_products
from headsearch.models.bases.trunk import make_deterministic, maps_at, patch_embedding, tokens_like

PLAIN_TRANSFORMERS = (VisionTransformer, Eva, Beit, MlpMixer, Conformer)
"""Models in which the grid of patches is the same from the first block to the last.

Only in these can a mask token replace a patch; see `Base.mask_token`.
"""


class BaseOutput(NamedTuple):
    """The output of a base for a batch of images."""

    maps_BDHW: dict[int, Tensor]
    """Patch tokens as maps, before the final norm of the base, by their distance from the output:
    0 is the map of the last block (of the last stage, in a base with stages), k the map k blocks
    (stages) before it. D, H and W are those of `BasePlan.stages`."""
    tokens_BND: Tensor
    """The last patch tokens, after the final norm of the base if that comes before pooling."""
    pooled_BD: Tensor
    """The image-level feature of the base: its class token or mean token, after the final norm."""
    valid: Tensor | None = None
    """(B, H, W), bool, on the grid of the last map: True where the maps hold data, False on
    padding, which heads and means leave out. None if there is no padding, as with images."""


class Reading(NamedTuple):
    """Which of the trunk's outputs match its last map in shape; `shapes.measure` determines it."""

    final_tokens: bool = True
    """Whether the final features are the tokens of the last map after a norm. They are not in an
    EfficientNet, for example, which widens its map for the classifier at the end. If False, the
    tokens of the last map itself are used."""
    own_summary: bool = True
    """Whether the trunk's own pooling gives (B, D). If False, the mean over tokens is used."""


WHOLE = Reading()
"""The reading of a trunk whose final features and pooling can both be used."""


class Base(nn.Module):
    """The model that is pretrained: a trunk with the interface that heads and objectives use.

    A base is deterministic except for drop path: its output depends on its weights and the images
    alone. All random parts of the trunk are switched off.

    Args:
        trunk: a timm model without its classifier, or a module that `plan_module` accepts.
        reading: which of the trunk's outputs are used.
        drop_path: keep the trunk's drop path rates, which act in training mode; else they are 0.

    Attributes:
        trunk: the model; the names of its parameters do not change.
        mask_token: (D,) parameter that replaces the embedding of a masked patch, as in iBOT (arXiv
            2111.07832). Only bases with one grid of patches have it (`PLAIN_TRANSFORMERS`); it is
            None in others, where the pixels of masked patches get the mean colour instead.
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
        """Computes maps, tokens and the image-level feature of images.

        Args:
            images_BCSS: normalised images.
            mask_BHW: bool on the grid of the last map; True for patches to hide from the base.
            feature_indices: the maps to return, counted from the last; must contain 0.
        """
        if mask_BHW is not None and self.mask_token is None:
            images_BCSS = _without_pixels(images_BCSS, mask_BHW)
            mask_BHW = None
        with self._masked_patches(mask_BHW):
            maps, final = maps_at(self.trunk, images_BCSS, feature_indices, final=any(self.reading))
        tokens_BND = maps[0].flatten(2).transpose(1, 2)
        if self.reading.final_tokens:
            normed_BND = tokens_like(self.trunk, final, maps[0])
            assert normed_BND is not None, "shapes.measure has checked this shape"
            tokens_BND = normed_BND
        pooled_BD = (
            self.trunk.forward_head(final, pre_logits=True)
            if self.reading.own_summary
            else tokens_BND.mean(dim=1)
        )
        return BaseOutput(maps, tokens_BND, pooled_BD)

    def weights(self) -> dict[str, Tensor]:
        """The state dict of the trunk, without the mask token; tensors share memory with the base.

        `timm.create_model(timm_name, num_classes=0, **plan.arguments)` loads it with strict names.
        """
        return {name: tensor.detach() for name, tensor in self.trunk.state_dict().items()}

    @contextmanager
    def _masked_patches(self, mask_BHW: Tensor | None) -> Iterator[None]:
        """Within this context the trunk's patch embedding gives the mask token for masked patches.

        A hook on the patch embedding works for every timm transformer: the trunk's own forward then
        adds positions and class tokens as usual.
        """
        if mask_BHW is None:
            yield
            return

        def replace_masked(module: nn.Module, inputs: Any, patches_BND: Tensor) -> Tensor:
            assert self.mask_token is not None
            token_D = self.mask_token.to(patches_BND.dtype)
            masked_B = mask_BHW.reshape(*patches_BND.shape[:-1], 1)
            return torch.where(masked_B, token_D, patches_BND)

        embedding = patch_embedding(self.trunk)
        assert embedding is not None
        handle = embedding.register_forward_hook(replace_masked)
        try:
            yield
        finally:
            handle.remove()


def _without_pixels(images_BCSS: Tensor, mask_BHW: Tensor) -> Tensor:
    """Sets the pixels of masked patches to 0, the mean colour of normalised images."""
    mask_B1HW = mask_BHW.unsqueeze(1).to(images_BCSS.dtype)
    mask_B1SS = F.interpolate(mask_B1HW, size=images_BCSS.shape[-2:], mode="nearest")
    return images_BCSS * (1 - mask_B1SS)
