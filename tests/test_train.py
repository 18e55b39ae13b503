"""Joint training: the formula, what couples heads and what must not, attach and detach."""

from __future__ import annotations

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headsearch.bases import Base
from headsearch.config import Coupling, resolve
from headsearch.heads import build_head
from headsearch.model import Network
from headsearch.objectives import OBJECTIVES, Losses, Objective
from headsearch.objectives.dino import Dino
from headsearch.objectives.mocov3 import MocoV3
from headsearch.schedules import Moment, learning_rate, teacher_momentum
from headsearch.scores.rung import BASE
from headsearch.seeding import seeded_weights
from headsearch.train import Trainer

DIM, GRID = 32, (4, 4)
TINY_VIT = {"img_size": 16, "patch_size": 4, "embed_dim": DIM, "depth": 2, "num_heads": 2}
HEADS = {
    "convnext": {"depth": 2, "kernel": 3, "first_shortcut": False},
    "attention": {"depth": 1},
    "poolformer": {"depth": 1},
    "mixer": {"depth": 1},
    "bottleneck": {"depth": 1},
}
OBJECTIVES_SMALL: dict[str, Objective] = {
    "dino": Dino(hidden=24, bottleneck=16, prototypes=48),
    "mocov3": MocoV3(hidden=24, width=16),
}


def make_trainer(
    names: list[str],
    coupling: Coupling = "joint",
    objective: str = "dino",
    *,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    seed: int = 0,
) -> Trainer:
    config = resolve({"seed": seed, "lr": 1e-2})
    with seeded_weights(seed, "base"):
        student = Network(
            Base(timm.create_model("vit_tiny_patch16_224", num_classes=0, **TINY_VIT)),
            OBJECTIVES_SMALL[objective].base_projection(DIM),
            coupling,
        )
    trainer = Trainer(
        student.to(dtype), OBJECTIVES_SMALL[objective], config, torch.device(device), autocast=False
    )
    for name in names:
        trainer.attach(name, lambda name=name: build_head(name, DIM, GRID, HEADS[name]), DIM)
    trainer.student.to(dtype)
    trainer.teacher.network.to(dtype)
    return trainer


def crops(seed: int = 0, *, dtype: torch.dtype = torch.float64, images: int = 6) -> Tensor:
    return torch.randn(2, images, 3, 16, 16, generator=torch.Generator().manual_seed(seed)).to(
        dtype
    )


def backward(trainer: Trainer, views: Tensor, moment: Moment) -> dict[str, Tensor]:
    """The gradients of one step, before clipping and update, by parameter name."""
    student, teacher = trainer.student.train(), trainer.teacher.network.train()
    images = views.flatten(0, 1)
    with torch.no_grad():
        targets = trainer.objective.targets(teacher, student, teacher(images), moment)
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer.objective.losses(student, student(images), targets).total.backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in student.named_parameters()
        if parameter.grad is not None
    }


def losses_of(trainer: Trainer, views: Tensor, moment: Moment) -> Losses:
    student, teacher = trainer.student.train(), trainer.teacher.network.train()
    images = views.flatten(0, 1)
    with torch.no_grad():
        targets = trainer.objective.targets(teacher, student, teacher(images), moment)
        return trainer.objective.losses(student, student(images), targets)


def different_teacher(trainer: Trainer) -> None:
    """Moves the teacher away from the student, so that mixing them up shows."""
    generator = torch.Generator().manual_seed(5)
    for parameter in trainer.teacher.network.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        parameter.data += 0.05 * noise


def of_base(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: g for name, g in gradients.items() if not name.startswith("_heads.")}


def of_head(gradients: dict[str, Tensor], head: str) -> dict[str, Tensor]:
    return {name: g for name, g in gradients.items() if name.startswith(f"_heads.{head}.")}


# (a) one head: the formula ------------------------------------------------------------------------


def dino_by_hand(trainer: Trainer, views: Tensor, progress: float, centre: Tensor) -> Tensor:
    """½ [CE(T_h(q), S_base(v)) + CE(T_h(q), S_h(v))], written out crop by crop from the paper."""
    temperature = 0.04 + (0.07 - 0.04) * min(1.0, progress / 0.5)
    (head,) = trainer.student.heads
    embedded: dict[str, list[Tensor]] = {"teacher head": [], "head": [], "base": []}
    for network, is_teacher in ((trainer.teacher.network, True), (trainer.student, False)):
        prototypes = network.projection.prototypes_PZ
        prototypes = prototypes / prototypes.norm(dim=1, keepdim=True)
        for view in views:
            seen = network.base(view)
            base_map, base_pooled = seen.maps_BDHW[0], seen.pooled_BD
            attached = network.heads[head]
            tokens = attached.head(base_map).permute(0, 2, 3, 1).reshape(len(view), -1, DIM)
            pooled = F.layer_norm(
                tokens, (DIM,), attached.norm.weight, attached.norm.bias, attached.norm.eps
            ).sum(dim=1) / math.prod(GRID)
            for owner, features in ((attached, pooled), (network, base_pooled)):
                z = owner.projection.projector(features)
                z = z / z.norm(dim=1, keepdim=True)
                key = "head" if owner is attached else "base"
                if not is_teacher:
                    embedded[key].append(z @ prototypes.T)
                elif key == "head":
                    embedded["teacher head"].append((z @ prototypes.T).detach())
    total = torch.zeros((), dtype=torch.float64)
    for q, v in ((0, 1), (1, 0)):
        target = ((embedded["teacher head"][q] - centre) / temperature).exp()
        target = target / target.sum(dim=1, keepdim=True)
        for key in ("base", "head"):
            logits = embedded[key][v] / 0.1
            log_p = logits - logits.exp().sum(dim=1, keepdim=True).log()
            total = total + 0.5 * -(target * log_p).sum(dim=1).mean() / 2
    return total


@pytest.mark.parametrize("progress_step", [0, 3, 8])
def test_one_head_has_the_published_loss_and_gradients(progress_step: int) -> None:
    trainer = make_trainer(["convnext"])
    different_teacher(trainer)
    moment = Moment(progress_step, 11)
    centre = torch.randn(48, generator=torch.Generator().manual_seed(3), dtype=torch.float64) / 5
    attached = trainer.student.heads["convnext"]
    attached.projection.centre.copy_(centre)

    expected = dino_by_hand(trainer, crops(), moment.progress, centre)
    trainer.optimizer.zero_grad(set_to_none=True)
    expected.backward()
    assert float(losses_of(trainer, crops(), moment).total) == pytest.approx(expected.item())
    attached.projection.centre.copy_(centre)  # the line before moved it
    by_hand = {
        n: p.grad.clone() for n, p in trainer.student.named_parameters() if p.grad is not None
    }

    ours = backward(trainer, crops(), moment)
    assert ours.keys() == by_hand.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], by_hand[name], rtol=1e-8, atol=1e-12, msg=name)


def test_the_centre_follows_the_teachers_mean_logits() -> None:
    trainer = make_trainer(["convnext"])
    different_teacher(trainer)
    teacher = trainer.teacher.network
    images = crops().flatten(0, 1)
    with torch.no_grad():
        pooled = teacher(images).pooled_BD("convnext")
        z = F.normalize(teacher.heads["convnext"].projection.projector(pooled))
        logits = z @ F.normalize(teacher.projection.prototypes_PZ).T
    backward(trainer, crops(), Moment(0, 10))
    torch.testing.assert_close(
        trainer.student.heads["convnext"].projection.centre,
        0.1 * logits.mean(dim=0),
        rtol=1e-5, atol=1e-7,
    )  # fmt: skip


def info_nce_by_hand(queries: Tensor, keys: Tensor) -> Tensor:
    """Mean over images of −log of the own key's share, times 2τ (MoCo v3, algorithm 1)."""
    queries = queries / queries.norm(dim=1, keepdim=True)
    keys = keys / keys.norm(dim=1, keepdim=True)
    loss = torch.zeros((), dtype=torch.float64)
    for i, query in enumerate(queries):
        scores = torch.stack([(query * key).sum() / 0.2 for key in keys])
        loss = loss - (scores[i] - torch.logsumexp(scores, dim=0))
    return 2 * 0.2 * loss / len(queries)


def test_one_head_in_the_contrastive_form_has_the_loss_and_gradients_of_the_formula() -> None:
    trainer = make_trainer(["attention"], objective="mocov3")
    different_teacher(trainer)
    student, teacher = trainer.student.train(), trainer.teacher.network.train()
    images = crops().flatten(0, 1)
    with torch.no_grad():
        keys = teacher.heads["attention"].projection.projector(
            teacher(images).pooled_BD("attention")
        )
    seen = student(images)
    own = student.heads["attention"].projection
    head_queries = own.predictor(own.projector(seen.pooled_BD("attention")))
    base_queries = own.base_predictor(student.projection.projector(seen.base.pooled_BD))
    expected = torch.zeros((), dtype=torch.float64)
    for queries in (head_queries, base_queries):
        for query, key in ((queries[:6], keys[6:]), (queries[6:], keys[:6])):
            expected = expected + 0.5 * info_nce_by_hand(query, key) / 2
    trainer.optimizer.zero_grad(set_to_none=True)
    expected.backward()
    by_hand = {n: p.grad.clone() for n, p in student.named_parameters() if p.grad is not None}

    losses = losses_of(trainer, crops(), Moment(0, 10))
    assert float(losses.total) == pytest.approx(expected.item())
    assert float(losses.base + losses.heads["attention"]) == pytest.approx(expected.item())
    ours = backward(trainer, crops(), Moment(0, 10))
    assert ours.keys() == by_hand.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], by_hand[name], rtol=1e-7, atol=1e-12, msg=name)


# (b), (c) cohorts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_heads_gradient_does_not_depend_on_its_cohort(objective: str) -> None:
    together = make_trainer(list(HEADS), objective=objective)
    alone = make_trainer(["mixer"], objective=objective)
    in_five = of_head(backward(together, crops(), Moment(5, 10)), "mixer")
    in_one = of_head(backward(alone, crops(), Moment(5, 10)), "mixer")
    for name, gradient in in_five.items():
        torch.testing.assert_close(gradient, in_one[name], rtol=1e-9, atol=1e-12, msg=name)
    assert in_five.keys() == in_one.keys()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_base_receives_the_mean_over_heads(objective: str) -> None:
    together = of_base(backward(make_trainer(list(HEADS), objective=objective), crops(),
                                Moment(5, 10)))  # fmt: skip
    alone = [
        of_base(backward(make_trainer([name], objective=objective), crops(), Moment(5, 10)))
        for name in HEADS
    ]
    for name, gradient in together.items():
        gradients = [one[name] for one in alone if name in one]
        assert gradients, name
        mean = torch.stack(gradients).sum(dim=0) / len(HEADS)
        torch.testing.assert_close(gradient, mean, rtol=1e-5, atol=1e-8, msg=name)


def all_state(trainer: Trainer, owner: str) -> list[Tensor]:
    """Weights, teacher copies, buffers and optimizer state of one owner."""
    state: list[Tensor] = []
    for network in (trainer.student, trainer.teacher.network):
        module: nn.Module
        if owner == BASE:
            state += [p for _, p in network.base_parameters()]
            state += [b for n, b in network.named_buffers() if not n.startswith("_heads.")]
        else:
            module = network.heads[owner]
            state += [*module.parameters(), *module.buffers()]
    for group in trainer.optimizer.param_groups:
        if group["owner"] == owner:
            for parameter in group["params"]:
                state += trainer.optimizer.state[parameter].values()
    return [tensor.detach().clone() for tensor in state]


def assert_bitwise(a: list[Tensor], b: list[Tensor]) -> None:
    assert len(a) == len(b)
    assert len(a) > 10
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_observing_heads_train_bitwise_alike_in_a_cohort_of_one_and_of_five(objective: str) -> None:
    together = make_trainer(list(HEADS), "observe", objective, dtype=torch.float32)
    alone = make_trainer(["bottleneck"], "observe", objective, dtype=torch.float32)
    for step in range(5):
        for trainer in (together, alone):
            trainer.step(crops(step, dtype=torch.float32), Moment(step, 5))
    assert_bitwise(all_state(together, "bottleneck"), all_state(alone, "bottleneck"))
    assert_bitwise(all_state(together, BASE), all_state(alone, BASE))


# (d) attach and detach ----------------------------------------------------------------------------


@pytest.mark.parametrize("coupling", ["joint", "observe"])
def test_detaching_removes_a_head_and_leaves_all_else_bitwise_as_it_was(coupling: Coupling) -> None:
    trainer = make_trainer(list(HEADS), coupling, dtype=torch.float32)
    for step in range(3):
        trainer.step(crops(step, dtype=torch.float32), Moment(step, 10))
    stay = [BASE, *[name for name in HEADS if name != "mixer"]]
    before = {owner: all_state(trainer, owner) for owner in stay}
    parameters = sum(p.numel() for p in trainer.student.parameters())
    of_mixer = {id(p) for p in trainer.student.heads["mixer"].parameters()}
    size = sum(p.numel() for p in trainer.student.heads["mixer"].parameters())

    trainer.detach("mixer")

    for owner in stay:
        assert_bitwise(all_state(trainer, owner), before[owner])
    assert sum(p.numel() for p in trainer.student.parameters()) == parameters - size
    assert sum(p.numel() for p in trainer.teacher.network.parameters()) == parameters - size
    assert not of_mixer & {id(p) for p in trainer.optimizer.state}
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in trainer.student.parameters()}
    trainer.step(crops(4, dtype=torch.float32), Moment(4, 10))
    assert trainer.read().owners.keys() == set(stay)


def test_a_step_after_the_last_head_left_trains_the_base_on_its_own_objective() -> None:
    trainer = make_trainer(["mixer"])
    trainer.detach("mixer")
    bare = make_trainer([])
    for one in (trainer, bare):
        one.step(crops(), Moment(0, 10))
    assert_bitwise(all_state(trainer, BASE), all_state(bare, BASE))


# the step itself ----------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("coupling", ["joint", "observe"])
def test_a_step_neither_syncs_with_the_host_nor_leaves_its_device(
    objective: str, coupling: Coupling
) -> None:
    trainer = make_trainer(list(HEADS), coupling, objective, dtype=torch.float32, device="meta")
    trainer.step(crops(dtype=torch.float32).to("meta"), Moment(0, 10))
    assert all(p.is_meta for p in trainer.student.parameters())


def test_a_step_updates_as_plain_adamw_with_clipped_gradients_and_moves_the_teacher() -> None:
    trainer, moment = make_trainer(["attention"]), Moment(4, 40)
    expected = make_trainer(["attention"])
    gradients = backward(expected, crops(), moment)
    lr = learning_rate(moment, 1e-2)
    trainer.step(crops(), moment)
    momentum = teacher_momentum(moment)
    before = dict(expected.student.named_parameters())
    for name, parameter in trainer.student.named_parameters():
        old = before[name].detach()
        if name not in gradients:
            assert torch.equal(parameter, old)
            continue
        g = gradients[name] * min(1.0, 0.3 / (float(gradients[name].norm()) + 1e-6))
        decay = 0.05 if old.ndim > 1 else 0.0
        new = old * (1 - lr * decay) - lr * g / (
            g.abs() + 1e-8
        )  # Adam's first step, bias-corrected
        torch.testing.assert_close(parameter.detach(), new, rtol=1e-4, atol=1e-6, msg=name)
        teacher = dict(trainer.teacher.network.named_parameters())[name]
        torch.testing.assert_close(
            teacher, momentum * old + (1 - momentum) * parameter.detach(), rtol=1e-6, atol=1e-9
        )


@pytest.mark.parametrize("coupling", ["joint", "observe"])
def test_a_head_that_is_not_finite_is_named_and_its_step_changes_no_weight(
    coupling: Coupling,
) -> None:
    trainer = make_trainer(["attention", "mixer"], coupling, dtype=torch.float32)
    trainer.step(crops(dtype=torch.float32), Moment(0, 10))
    trainer.read()
    next(trainer.student.heads["mixer"].head.parameters()).data.fill_(math.nan)
    before = [p.detach().clone() for p in trainer.student.parameters()]
    trainer.step(crops(1, dtype=torch.float32), Moment(1, 10))
    health = trainer.read()
    assert not health.owners["mixer"].finite
    assert health.owners["attention"].finite
    assert health.base_sound
    for old, new in zip(before, trainer.student.parameters(), strict=True):
        assert torch.equal(old, new) or bool(old.isnan().any())
    trainer.detach("mixer")
    trainer.step(crops(2, dtype=torch.float32), Moment(2, 10))
    assert all(owner.finite for owner in trainer.read().owners.values())
    assert all(bool(p.isfinite().all()) for p in trainer.student.parameters())


def test_training_lowers_every_loss() -> None:
    trainer = make_trainer(["convnext", "attention"], objective="mocov3", dtype=torch.float32)
    losses = []
    for step in range(30):
        trainer.step(crops(step % 2, dtype=torch.float32), Moment(step, 30))
        losses.append({owner: health.loss for owner, health in trainer.read().owners.items()})
    for owner in losses[0]:
        first = sum(step[owner] for step in losses[:5])
        last = sum(step[owner] for step in losses[-5:])
        assert last < 0.9 * first, owner
