"""Objectives: one contract for all, each held against its formula in float64, masks."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headsearch.config.settings import Coupling, RunConfig
from headsearch.errors import UserError
from headsearch.models.bases import BasePlan, plan_base
from headsearch.models.network import BASE, Network
from headsearch.training.objectives import OBJECTIVES, make_objective
from headsearch.training.objectives.masks import block_masks, masked_mean
from headsearch.training.schedules import StepPosition
from headsearch.training.trainer import Trainer
from helpers.objective_formulas import CROPS, assert_close, by_hand, made, mask_of, prepared
from helpers.tiny_training import (
    GRID,
    HEADS,
    backward,
    crops,
    different_teacher,
    features_of,
    gradients_of,
    losses_of,
    make_trainer,
    of_base,
    of_head,
    small_objective,
)

MOMENT = StepPosition(3, 11)


@cache
def of_stages() -> BasePlan:
    """A base whose maps have several grids and widths."""
    return plan_base("test_convnext", 32)


# the contract of every objective ------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("head", ["convnext", "attention"])
def test_one_head_has_the_loss_and_gradients_of_the_formula(objective: str, head: str) -> None:
    reference = prepared(objective, [head])
    terms = by_hand(reference, crops(), MOMENT)
    expected = 0.5 * (terms.toward + terms.own_head) + terms.kept
    trainer = prepared(objective, [head])
    losses = losses_of(trainer, crops(), MOMENT)
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-9)
    assert losses.heads[head].item() == pytest.approx(0.5 * terms.own_head.item(), rel=1e-9)
    of_the_base = 0.5 * terms.toward + terms.kept
    assert losses.base.item() == pytest.approx(of_the_base.item(), rel=1e-9)
    assert_close(gradients_of(trainer, losses.total), gradients_of(reference, expected))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_without_a_head_it_is_the_original(objective: str) -> None:
    reference = prepared(objective, [])
    expected = by_hand(reference, crops(), MOMENT).own_base
    trainer = prepared(objective, [])
    losses = losses_of(trainer, crops(), MOMENT)
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-9)
    assert losses.base.item() == pytest.approx(expected.item(), rel=1e-9)
    assert losses.heads == {}
    assert_close(gradients_of(trainer, losses.total), gradients_of(reference, expected))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_head_that_observes_has_the_original_loss_and_leaves_the_base_its_own(
    objective: str,
) -> None:
    terms = by_hand(prepared(objective, ["attention"], "observe"), crops(), MOMENT)
    trainer = prepared(objective, ["attention"], "observe")
    losses = losses_of(trainer, crops(), MOMENT)
    assert losses.heads["attention"].item() == pytest.approx(terms.own_head.item(), rel=1e-9)
    assert losses.base.item() == pytest.approx(terms.own_base.item(), rel=1e-9)
    bare = backward(prepared(objective, []), crops(), MOMENT)
    watched = of_base(gradients_of(trainer, losses.total))
    assert watched.keys() == bare.keys()
    assert all(torch.equal(watched[name], bare[name]) for name in bare)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_heads_gradient_does_not_depend_on_its_cohort(objective: str) -> None:
    together = prepared(objective, list(HEADS))
    alone = prepared(objective, ["mixer"])
    alone.student.load_state_dict(_without_other_heads(together.student, "mixer"))
    alone.teacher.network.load_state_dict(_without_other_heads(together.teacher.network, "mixer"))
    in_five = of_head(backward(together, crops(), MOMENT), "mixer")
    in_one = of_head(backward(alone, crops(), MOMENT), "mixer")
    assert in_five.keys() == in_one.keys()
    for name, gradient in in_five.items():
        torch.testing.assert_close(gradient, in_one[name], rtol=1e-9, atol=1e-12, msg=name)


def _without_other_heads(network: Network, head: str) -> dict[str, Tensor]:
    return {
        name: value
        for name, value in network.state_dict().items()
        if not name.startswith("_heads.") or name.startswith(f"_heads.{head}.")
    }


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_base_receives_the_mean_over_heads(objective: str) -> None:
    together = of_base(backward(make_trainer(list(HEADS), objective=objective), crops(), MOMENT))
    alone = [
        of_base(backward(make_trainer([name], objective=objective), crops(), MOMENT))
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
    for step in range(4):
        for trainer in (together, alone):
            trainer.step(crops(step, dtype=torch.float32), StepPosition(step, 4))
    assert_bitwise(all_state(together, "bottleneck"), all_state(alone, "bottleneck"))
    assert_bitwise(all_state(together, BASE), all_state(alone, BASE))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_detaching_removes_a_head_and_leaves_all_else_bitwise_as_it_was(objective: str) -> None:
    trainer = make_trainer(list(HEADS), "joint", objective, dtype=torch.float32)
    for step in range(2):
        trainer.step(crops(step, dtype=torch.float32), StepPosition(step, 10))
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
    trainer.step(crops(4, dtype=torch.float32), StepPosition(4, 10))
    assert trainer.read().owners.keys() == set(stay)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_step_after_the_last_head_left_trains_the_base_on_its_own(objective: str) -> None:
    trainer = make_trainer(["mixer"], "joint", objective)
    trainer.detach("mixer")
    bare = make_trainer([], "joint", objective)
    for one in (trainer, bare):
        one.step(crops(), StepPosition(0, 10))
    assert_bitwise(all_state(trainer, BASE), all_state(bare, BASE))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("coupling", ["joint", "observe"])
def test_a_step_neither_syncs_with_the_host_nor_leaves_its_device(
    objective: str, coupling: Coupling
) -> None:
    trainer = make_trainer(["attention", "mixer"], coupling, objective, dtype=torch.float32,
                           device="meta")  # fmt: skip
    trainer.step(crops(dtype=torch.float32).to("meta"), StepPosition(0, 10))
    assert all(p.is_meta for p in trainer.student.parameters())


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("coupling", ["joint", "observe"])
def test_in_bfloat16_the_losses_are_float32_and_close(objective: str, coupling: Coupling) -> None:
    exact = prepared(objective, ["attention"], coupling, dtype=torch.float32)
    rounded = prepared(objective, ["attention"], coupling, dtype=torch.float32)
    rounded.autocast = True
    views = crops(dtype=torch.float32)
    one, other = losses_of(exact, views, MOMENT), losses_of(rounded, views, MOMENT)
    for loss, reference in ((other.base, one.base), (other.total, one.total)):
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(reference.item(), rel=0.05)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_teacher_is_the_student_where_the_objective_has_none(objective: str) -> None:
    trainer = make_trainer(["attention"], "joint", objective)
    for step in range(3):
        trainer.step(crops(step), StepPosition(step, 40))
    pairs = zip(trainer.student.parameters(), trainer.teacher.network.parameters(), strict=True)
    alike = all(torch.equal(student, teacher) for student, teacher in pairs)
    assert alike == (objective in ("simsiam", "simclr", "barlow", "vicreg"))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_head_takes_an_earlier_map_of_another_grid_and_width(objective: str) -> None:
    plan = of_stages()
    feature_index = len(plan.stages) - 1
    assert plan.stages[feature_index].grid != plan.grid
    assert plan.stages[feature_index].dim != plan.dim
    trainer = make_trainer(["convnext", "mixer"], "joint", objective, dtype=torch.float32,
                           plan=plan, feature_index=feature_index)  # fmt: skip
    gradients = backward(trainer, crops(dtype=torch.float32, side=32), MOMENT)
    for head in ("convnext", "mixer"):
        assert all(bool(g.isfinite().all()) for g in of_head(gradients, head).values())
        assert any(bool(g.any()) for g in of_head(gradients, head).values())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_training_lowers_every_loss(objective: str) -> None:
    trainer = make_trainer(["convnext", "attention"], "joint", objective, dtype=torch.float32,
                           lr=3e-3)  # fmt: skip
    still = StepPosition(100, 1000)  # at one temperature, so that losses can be compared
    for step in range(40):  # centres start at 0, where all images still look alike
        losses_of(trainer, crops(step % 2, dtype=torch.float32), still)
    losses = []
    for step in range(40):
        trainer.step(crops(step % 2, dtype=torch.float32), still)
        losses.append({owner: stats.loss for owner, stats in trainer.read().owners.items()})
    for owner in losses[0]:
        first = sum(step[owner] for step in losses[:5])
        last = sum(step[owner] for step in losses[-5:])
        assert last < 0.95 * first, owner


COLLAPSES_LOWEST = {"dino", "ibot", "byol", "simsiam"}


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "mae"])
def test_a_collapse_is_not_the_lowest_loss_or_the_objectives_docstring_says_so(
    objective: str,
) -> None:
    compare = small_objective(objective).compare  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(0)
    spread = torch.linalg.qr(torch.randn(64, 16, generator=generator, dtype=torch.float64))[0] * 8
    same = torch.zeros(64, 16, dtype=torch.float64)
    same[:, 3] = 100
    # prototypes want targets that are probabilities; 1 for the same one, and each for another
    collapsed = compare(same, same / 100 if objective in ("dino", "ibot") else same)
    lowest = compare(spread, spread.softmax(dim=1)) if objective in ("dino", "ibot") else compare(
        spread, spread
    )  # fmt: skip
    lower = bool(collapsed <= lowest + 1e-9)
    assert lower == (objective in COLLAPSES_LOWEST)
    assert ("collapse" in str(OBJECTIVES[objective].__doc__)) == lower


def test_a_constant_is_no_good_guess_of_pixels() -> None:
    trainer = make_trainer([], "joint", "mae")
    for parameter in trainer.student.projection.parameters():
        parameter.data.zero_()
    assert losses_of(trainer, crops(), MOMENT).base.item() == pytest.approx(47 / 48, rel=1e-4)


# names --------------------------------------------------------------------------------------------


def test_the_help_names_every_objective_and_a_near_miss_is_told() -> None:
    text = str(RunConfig.model_fields["objective"].description)
    assert all(f" {name}" in text for name in OBJECTIVES)
    with pytest.raises(UserError, match="did you mean 'simsiam'"):
        make_objective("simsam")


# centres ------------------------------------------------------------------------------------------


def test_centres_follow_the_teachers_mean_logits_each_its_own() -> None:
    trainer = make_trainer(["convnext"], "joint", "ibot")
    different_teacher(trainer)
    teacher = trainer.teacher.network.train()
    with torch.no_grad():
        whole = made(teacher, crops().flatten(0, 1), None)  # the teacher sees whole crops
        prototypes = F.normalize(teacher.projection.prototypes_PZ).T
        of_base = F.normalize(teacher.projection.projector(whole.base_pooled)) @ prototypes
        of_patches = (
            F.normalize(teacher.projection.projector(whole.base_tokens), dim=2) @ prototypes
        )
        own = teacher.heads["convnext"].projection
        of_head = F.normalize(own.projector(whole.head_pooled)) @ prototypes
    backward(trainer, crops(), StepPosition(0, 10))
    student = trainer.student
    for centre, logits in (
        (student.projection.centre, of_base),
        (student.projection.patch_centre, of_patches.flatten(0, 1)),
        (student.heads["convnext"].projection.centre, of_head),
    ):
        torch.testing.assert_close(centre, 0.1 * logits.mean(dim=0), rtol=1e-5, atol=1e-7)


# masks --------------------------------------------------------------------------------------------


def test_blocks_mask_exactly_as_many_cells_as_asked() -> None:
    counts = torch.arange(0, 197)
    masks = block_masks(counts, (14, 14), torch.Generator().manual_seed(0), area=(0.08, 0.5))
    assert masks.shape == (197, 14, 14)
    assert torch.equal(masks.flatten(1).sum(dim=1), counts)


def test_masks_are_blocks_and_fall_anywhere() -> None:
    counts = torch.full((4000,), 48)
    generator = torch.Generator().manual_seed(0)
    drawn = block_masks(counts, (14, 14), generator, area=(0.08, 0.5))
    masks = drawn.float()
    # the share of masked cells whose right neighbour is masked: 0.24 if cells were independent
    pairs = (masks[:, :, :-1] * masks[:, :, 1:]).sum() / masks[:, :, :-1].sum()
    assert pairs > 0.7
    often = masks.mean(dim=0)
    for mirrored in (often.flip(0), often.flip(1)):
        assert (often - mirrored).abs().max() < 0.05
    assert often.min() > 0.01
    assert drawn.all(dim=2).float().mean() < 0.02  # hardly a whole row


def test_the_masks_of_ibot_have_ratio_0_or_a_tenth_to_a_half() -> None:
    trainer = make_trainer([], "joint", "ibot")
    masks = trainer.objective.mask(trainer.student, 20_000, torch.Generator().manual_seed(1))
    assert masks is not None
    counts = masks.flatten(1).sum(dim=1)
    share = (counts > 0).float().mean().item()
    assert share == pytest.approx(0.5, abs=0.02)
    masked = counts[counts > 0]
    assert (int(masked.min()), int(masked.max())) == (1, 7)  # 0.1 · 16 and just under 0.5 · 16
    # floor(16 r) of r uniform in 0.1 … 0.5: the mean of the floors, by integration
    mean = sum(k * (min(0.5, (k + 1) / 16) - max(0.1, k / 16)) for k in range(1, 8)) / 0.4
    assert masked.float().mean().item() == pytest.approx(mean, abs=0.06)


@pytest.mark.parametrize("objective", ["ibot", "mae"])
def test_masks_depend_on_seed_and_step_alone(objective: str) -> None:
    def seen(trainer: Trainer, step: int) -> Tensor:
        return features_of(trainer, crops(), StepPosition(step, 10)).base.tokens_BND

    one = seen(make_trainer(["mixer"], "joint", objective), 4)
    assert torch.equal(one, seen(make_trainer(["attention"], "observe", objective), 4))
    after_others = make_trainer([], "joint", objective)
    seen(after_others, 3)
    torch.rand(7)
    assert torch.equal(one, seen(after_others, 4))
    assert not torch.equal(one, seen(after_others, 5))


def test_the_masked_mean_is_over_each_crops_own_cells() -> None:
    loss = torch.tensor([[1.0, 2.0, 3.0, 4.0], [9.0, 9.0, 9.0, 9.0], [0.0, 5.0, 0.0, 0.0]])
    mask = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]]).bool().view(3, 2, 2)
    assert masked_mean(loss, mask).item() == pytest.approx((2 + 0 + 5) / 3)


def test_a_base_that_is_not_of_patches_learns_from_masks_too() -> None:
    plan = of_stages()
    for objective in ("ibot", "mae"):
        trainer = make_trainer(["mixer"], "joint", objective, dtype=torch.float32, plan=plan)
        trainer.step(crops(dtype=torch.float32, side=32), StepPosition(0, 10))
        assert all(owner.finite for owner in trainer.read().owners.values())


def test_mae_averages_a_finer_heads_tokens_onto_the_last_grid() -> None:
    plan = of_stages()
    feature_index = len(plan.stages) - 1
    trainer = make_trainer(["convnext"], "observe", "mae", plan=plan, feature_index=feature_index)
    images = crops(side=32)
    losses = losses_of(trainer, images, MOMENT)
    mask = mask_of(trainer, MOMENT)
    head = trainer.student.heads["convnext"]
    flat = images.flatten(0, 1)
    tokens = trainer.student(flat, mask).heads_BND["convnext"].view(CROPS, 8, 8, -1)
    expected = 0.0
    for one, row, column in mask.nonzero().tolist():
        four = tokens[one, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        patch = flat[one, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].flatten()
        patch = (patch - patch.mean()) / (patch.var() + 1e-6).sqrt()
        pixels = head.projection.decoder(four.mean(dim=(0, 1)))
        expected += (pixels - patch).square().mean().item() / len(mask.nonzero())
    assert losses.heads["convnext"].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_base_is_scored_by_what_its_loss_is_made_from(objective: str) -> None:
    """The gradient of the loss reaches the class token after the last norm, unless none does."""
    trainer = make_trainer([], "joint", objective)
    features, losses = trainer.losses(crops().flatten(0, 1), MOMENT)
    summary = trainer.objective.summary_of_base(features.base)
    own, tokens = features.base.pooled_BD, features.base.tokens_BND
    reaches_own, reaches_tokens = torch.autograd.grad(
        losses.total, (own, tokens), allow_unused=True, retain_graph=True
    )
    if reaches_own is not None:
        assert summary is own
    else:
        assert reaches_tokens is not None
        torch.testing.assert_close(summary, tokens.mean(dim=1))


# published implementations ------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["simclr", "barlow", "vicreg", "byol"])
def test_the_loss_is_that_of_lightly(objective: str) -> None:
    losses = pytest.importorskip("lightly.loss")
    theirs = {
        "simclr": losses.NTXentLoss(temperature=0.1),
        "barlow": losses.BarlowTwinsLoss(),
        "vicreg": losses.VICRegLoss(),
        # BYOL's 2 − 2 cos; SimSiam's is its half, less one
        "byol": lambda a, b: 2 + 2 * losses.NegativeCosineSimilarity()(a, b),
    }[objective]
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 20, 8, generator=generator, dtype=torch.float64).unbind()
    other = one + 0.5 * other
    ours = make_objective(objective)
    expected = theirs(one, other)
    assert ours.compare(one, other).item() == pytest.approx(expected.item(), rel=1e-6)  # type: ignore[attr-defined]


def test_ibots_losses_are_those_of_lightly() -> None:
    losses = pytest.importorskip("lightly.loss")
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 12, 16, 48, generator=generator).unbind()
    mask = block_masks(torch.arange(12), GRID, generator, area=(0.08, 0.5))
    theirs = losses.IBOTPatchLoss(48, 0.04, 0.1)(
        teacher[mask.flatten(1)], student[mask.flatten(1)], mask
    )
    from headsearch.training.objectives.dino import cross_entropy as ours

    target = F.softmax(teacher / 0.04, dim=-1)
    assert masked_mean(ours(student, target), mask).item() == pytest.approx(theirs.item(), rel=1e-5)
