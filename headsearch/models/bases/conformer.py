"""`conformer`: a base for sequences of our own, which timm knows once this module is imported.

Gulati et al., *Conformer: Convolution-augmented Transformer for Speech Recognition*, Interspeech
2020, https://arxiv.org/abs/2005.08100. A block adds in turn half a feed-forward layer, attention, a
depth-wise convolution and another half of a feed-forward layer, and ends in a norm.

What differs from the publication: patches in place of its convolutional subsampling; a learned bias
for each distance and attention head in place of sinusoidal relative positions (as in Swin, arXiv
2103.14030), so that positions count only relative to one another here too; a layer norm in place of
the batch norm of the convolution, so that an output depends on its own clip alone; a kernel of 15
in place of 31, since maps have some tens of tokens; no dropout.

Shapes: B clips, D width, N tokens, A attention heads, K kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, PatchEmbed, trunc_normal_
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn

SIZE, PATCH = (64, 96), (64, 4)
"""Bands and time steps of a clip, and of a patch, where nothing else is asked for."""


class FeedForward(nn.Module):
    """A feed-forward layer (B, N, D) with its norm in front; its expansion is `ratio` times D."""

    def __init__(self, dim: int, ratio: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, round(dim * ratio))
        self.fc2 = nn.Linear(round(dim * ratio), dim)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        output: Tensor = self.fc2(F.silu(self.fc1(self.norm(tokens_BND))))
        return output


class RelativeAttention(nn.Module):
    """Attention (B, N, D) with its norm in front, and a bias for each distance between tokens."""

    distance: Tensor

    def __init__(self, dim: int, num_heads: int, length: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.bias = nn.Parameter(torch.zeros(2 * length - 1, num_heads))
        places = torch.arange(length)
        distance_NN = places[None] - places[:, None] + length - 1
        self.register_buffer("distance", distance_NN, persistent=False)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(tokens_BND)).unflatten(2, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, A, N, D / A) each
        bias_ANN = self.bias[self.distance].permute(2, 0, 1).to(query.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias_ANN)
        output: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return output


class Convolution(nn.Module):
    """The convolution module (B, N, D): gate, depth-wise convolution along the tokens, Swish."""

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.gated = nn.Linear(dim, 2 * dim)
        self.depthwise = nn.Conv1d(
            dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, bias=False
        )
        self.norm_inside = nn.LayerNorm(dim)
        self.pointwise = nn.Linear(dim, dim)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        gated_BND = F.glu(self.gated(self.norm(tokens_BND)), dim=2)
        mixed_BND = self.depthwise(gated_BND.transpose(1, 2)).transpose(1, 2)
        output: Tensor = self.pointwise(F.silu(self.norm_inside(mixed_BND)))
        return output


class ConformerBlock(nn.Module):
    """A block (B, N, D), equation 1 of the publication."""

    def __init__(
        self, dim: int, num_heads: int, length: int, kernel_size: int, ratio: float, drop: float
    ) -> None:
        super().__init__()
        self.before = FeedForward(dim, ratio)
        self.attention = RelativeAttention(dim, num_heads, length)
        self.convolution = Convolution(dim, kernel_size)
        self.after = FeedForward(dim, ratio)
        self.norm = nn.LayerNorm(dim)
        self.drop_path = DropPath(drop)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        tokens_BND = tokens_BND + self.drop_path(0.5 * self.before(tokens_BND))
        tokens_BND = tokens_BND + self.drop_path(self.attention(tokens_BND))
        tokens_BND = tokens_BND + self.drop_path(self.convolution(tokens_BND))
        tokens_BND = tokens_BND + self.drop_path(0.5 * self.after(tokens_BND))
        output: Tensor = self.norm(tokens_BND)
        return output


class Conformer(nn.Module):
    """A conformer on the patches of a log-mel map, with the interface of timm's models.

    Args:
        img_size: bands and time steps of a clip.
        patch_size: bands and time steps of a patch, which takes all bands.
        in_chans: channels of the input.
        num_classes: of a classifier on the mean token; none if 0.
        depth: blocks.
        dim: D, a multiple of `num_heads`.
        num_heads: A.
        kernel_size: K, odd.
        ff_ratio: the width of feed-forward layers, as a multiple of D.
        drop_path_rate: the rate of the last block; it falls linearly to 0 at the first.

    Raises:
        ValueError: the patches are not one row, or sizes do not fit one another.
    """

    def __init__(
        self,
        img_size: Sequence[int] | int = SIZE,
        patch_size: Sequence[int] | int = PATCH,
        in_chans: int = 1,
        num_classes: int = 0,
        depth: int = 12,
        dim: int = 192,
        num_heads: int = 3,
        kernel_size: int = 15,
        ff_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 1 or num_heads < 1 or dim < 1 or dim % num_heads:
            raise ValueError(
                f"dim must be a multiple of num_heads, and all be 1 or more, but got "
                f"{depth=}, {dim=}, {num_heads=}"
            )
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and 1 or more, but got {kernel_size}")
        self.embed_dim = self.num_features = self.head_hidden_size = dim
        self.num_prefix_tokens = 0
        self.patch_embed = PatchEmbed(img_size, patch_size, in_chans, dim)
        rows, columns = self.patch_embed.grid_size
        if rows != 1:
            raise ValueError(f"a conformer reads one row of patches, not {rows}×{columns}")
        self.blocks = nn.ModuleList(
            ConformerBlock(dim, num_heads, columns, kernel_size, ff_ratio, rate)
            for rate in torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        )
        self.head = nn.Linear(dim, num_classes) if num_classes else nn.Identity()
        self.apply(_draw_first_weights)

    def forward_features(self, clips_BCMT: Tensor) -> Tensor:
        """The tokens (B, N, D) of the last block."""
        tokens_BND: Tensor = self.patch_embed(clips_BCMT)
        for block in self.blocks:
            tokens_BND = block(tokens_BND)
        return tokens_BND

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The outputs of some blocks as maps (B, D, 1, N), behind the final tokens; as in timm.

        Args:
            x: clips (B, C, M, T).
            indices: which blocks, from 0; negative ones count from the last; None: all.
            norm: without effect, since each block ends in a norm.
            output_fmt: NCHW, the only one.
            intermediates_only: returns the maps alone.
        """
        assert output_fmt == "NCHW", "maps are given as NCHW alone"
        wanted, _ = feature_take_indices(len(self.blocks), indices)
        tokens_BND, maps = self.patch_embed(x), []
        for index, block in enumerate(self.blocks):
            tokens_BND = block(tokens_BND)
            if index in wanted:
                maps.append(tokens_BND.transpose(1, 2).unsqueeze(2))
        return maps if intermediates_only else (tokens_BND, maps)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The mean token (B, D), or logits if there is a classifier and `pre_logits` is not set."""
        mean_BD = x.mean(dim=1)
        output: Tensor = mean_BD if pre_logits else self.head(mean_BD)
        return output

    def forward(self, x: Tensor) -> Tensor:
        """Logits, or the mean token if there is no classifier."""
        return self.forward_head(self.forward_features(x))


def _draw_first_weights(module: nn.Module) -> None:
    """Those of timm's vision transformers: small normal weights, biases 0."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


default_cfgs = generate_default_cfgs(
    {
        "conformer": {
            "url": "",
            "num_classes": 0,
            "input_size": (1, *SIZE),
            "mean": (0.0,),
            "std": (1.0,),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        }
    }
)
"""What timm asks of its models; there are no weights to download."""


@register_model  # type: ignore[untyped-decorator]
def conformer(pretrained: bool = False, **kwargs: Any) -> Conformer:
    """The entry of timm's registry: `timm.create_model("conformer", …)`."""
    model: Conformer = build_model_with_cfg(Conformer, "conformer", pretrained, **kwargs)
    return model
