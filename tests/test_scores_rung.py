"""The scores of a rung: the same however many heads' features are held together."""

from __future__ import annotations

from typing import Any

import pytest

from headsearch.config import resolve
from headsearch.ground import Ground, prepare_ground
from headsearch.head_choice import head_on
from headsearch.model import Network
from headsearch.scores import rung
from headsearch.solo import attach

HEADS = ("mixer-d1", "poolformer-d1-p3", "identity", "attention-d1")


def grown(**changes: Any) -> tuple[Ground, Network]:
    settings: dict[str, Any] = {
        "base": "test_vit", "image_size": 16, "patch_size": 4, "images": 64, "batch_size": 16,
        "eval_images": 48, "bank_images": 48, "device": "cpu", "precision": "float32",
    }  # fmt: skip
    ground = prepare_ground(resolve({**settings, **changes}))
    trainer = ground.new_trainer("observe")
    for name in HEADS:
        attach(trainer, ground, head_on(ground.plan, name).candidate)
    return ground, trainer.teacher.network


@pytest.mark.parametrize("changes", [{}, {"objective": "dino", "discrepancy": "prototype_kl"}])
def test_heads_that_take_turns_score_as_together(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ground, network = grown(**changes)
    together = ground.scores(network)
    assert len(rung._groups(network.heads, ground.data)) == 1
    monkeypatch.setattr(rung, "POOLED_NUMBERS", 2 * 96 * ground.plan.dim)
    assert [len(names) for names in rung._groups(network.heads, ground.data)] == [2, 2]
    assert ground.scores(network) == together
    monkeypatch.setattr(rung, "POOLED_NUMBERS", 1)
    assert ground.scores(network) == together
    assert list(together.heads) == list(HEADS)


def test_a_base_without_heads_is_scored() -> None:
    ground, network = grown()
    expected = ground.scores(network).base
    for name in HEADS:
        network.detach(name)
    found = ground.scores(network)
    assert found.heads == {}
    assert found.base == expected
