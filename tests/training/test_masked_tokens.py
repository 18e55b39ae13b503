"""Masked tokens of texts: `mae` on token ids, and padding in the means over masked places."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from headsearch.config.input_shape import InputShape
from headsearch.models.bases import BasePlan, Stage
from headsearch.training.objectives.ibot import _mean_over_patches
from headsearch.training.objectives.mae import TOKEN_RATIO, Mae, TokenBaseProjection

TOKENS, WORDS, DIM = 10, 30, 8


def projection() -> TokenBaseProjection:
    plan = BasePlan(
        "hf:bert", "bert", InputShape.text(TOKENS, WORDS), (Stage(DIM, (1, TOKENS)),), None, 0, 0
    )
    torch.manual_seed(0)
    made = Mae().base_projection(plan)
    assert isinstance(made, TokenBaseProjection)
    return made


def test_masks_hide_the_same_number_of_places_anywhere() -> None:
    mask = projection().mask(2000, torch.Generator().manual_seed(0))
    assert mask.shape == (2000, 1, TOKENS)
    assert mask.flatten(1).sum(1).unique().tolist() == [round(TOKEN_RATIO * TOKENS)]
    share = mask.float().mean(0).flatten()
    assert (share - TOKEN_RATIO).abs().max() < 0.05  # a standard error is 0.01


def test_the_error_is_the_cross_entropy_at_masked_tokens_of_the_text() -> None:
    own = projection()
    chance = torch.Generator().manual_seed(1)
    ids = torch.randint(0, WORDS, (6, TOKENS), generator=chance)
    ids[1, 4:], ids[2, 1:] = -1, -1
    tokens = torch.randn(6, TOKENS, DIM, generator=chance)
    hidden = own.mask(6, chance)
    hidden[3] = torch.arange(TOKENS) < own.count
    mask = hidden & (ids >= 0).unsqueeze(1)
    views = torch.stack([ids, torch.ones_like(ids)], dim=1)
    found = own.error(own.decoder, tokens, own.targets(views), mask)
    by_text = []
    for text in range(6):
        places = [p for p in range(TOKENS) if hidden[text, 0, p] and ids[text, p] >= 0]
        errors = [F.cross_entropy(own.decoder(tokens[text, p]), ids[text, p]) for p in places]
        by_text.append(torch.stack(errors).mean() if errors else torch.zeros(()))
    torch.testing.assert_close(found, torch.stack(by_text).mean())


def test_the_centre_of_patches_leaves_padding_out() -> None:
    logits = torch.randn(3, TOKENS, 5)
    valid = (torch.arange(TOKENS) < torch.tensor([[10], [3], [1]])).unsqueeze(1)
    kept = torch.cat([logits[0], logits[1, :3], logits[2, :1]])
    torch.testing.assert_close(_mean_over_patches(logits, valid), kept.mean(0))
    torch.testing.assert_close(_mean_over_patches(logits, None), logits.mean((0, 1)))
