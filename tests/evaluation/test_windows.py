"""The discrepancy of texts: on windows of one length, because padded maps measure lengths."""

from __future__ import annotations

import torch
from torch import Tensor

from headsearch.evaluation.features import RungFeatures
from headsearch.evaluation.similarity import cka_of_grams, gram, map_features

TEXTS, TOKENS, DIM = 48, 20, 8


def features_with(valid: Tensor | None, batch: int) -> RungFeatures:
    features = RungFeatures.__new__(RungFeatures)
    features._valid_on_probe = [None] if valid is None else list(valid.split(batch))
    return features


def test_windows_have_the_median_length_and_leave_shorter_texts_out() -> None:
    lengths = torch.tensor([2, 5, 5, 9, 20])
    valid = (torch.arange(TOKENS) < lengths[:, None]).unsqueeze(1)
    tokens = torch.arange(5.0)[:, None, None].expand(5, TOKENS, 3)
    found = features_with(valid, 2).windows(tokens)
    assert found.shape == (4, 5, 3)
    assert found[:, 0, 0].tolist() == [1, 2, 3, 4]
    assert torch.equal(features_with(None, 2).windows(tokens), tokens)


def test_other_texts_of_the_same_lengths_do_not_look_alike() -> None:
    chance = torch.Generator().manual_seed(0)
    lengths = torch.randint(5, TOKENS + 1, (TEXTS,), generator=chance)
    valid = (torch.arange(TOKENS) < lengths[:, None]).unsqueeze(1)
    mean = 3 * torch.randn(DIM, generator=chance)  # the common part of all tokens of a network
    one, other = (
        torch.where(
            valid[:, 0, :, None], mean + torch.randn(TEXTS, TOKENS, DIM, generator=chance), 0
        )
        for _ in range(2)
    )
    features = features_with(valid, 16)

    def alike(first: Tensor, second: Tensor) -> float:
        return float(cka_of_grams(gram(map_features(first)), gram(map_features(second))))

    assert alike(one, other) > 0.6  # of padded maps
    assert alike(features.windows(one), features.windows(other)) < 0.3
