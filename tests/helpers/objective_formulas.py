"""The formula of every objective, written out crop by crop: what ours is held against."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from headsearch.config.settings import Coupling
from headsearch.models.network import Network
from headsearch.seeding import seeded_generator
from headsearch.training.objectives import OBJECTIVES
from headsearch.training.schedules import StepPosition
from headsearch.training.trainer import Trainer
from helpers.tiny_training import DIM, GRID, IMAGES, different_teacher, make_trainer

CROPS = 2 * IMAGES


class Made(NamedTuple):
    """What a network makes of all crops: of the base, and of its one head if it has any."""

    base_pooled: Tensor
    base_tokens: Tensor
    head_pooled: Tensor
    head_tokens: Tensor


class ByHand(NamedTuple):
    """The terms of L = ½ [toward + own_head] + kept, and the base's own loss."""

    toward: Tensor
    own_head: Tensor
    own_base: Tensor
    kept: Tensor


def made(network: Network, images: Tensor, mask: Tensor | None) -> Made:
    seen = network.base(images, mask)
    tokens = seen.tokens_BND
    for attached in network.heads.values():
        out = attached.head(seen.maps_BDHW[0]).permute(0, 2, 3, 1).reshape(len(images), -1, DIM)
        mean, variance = out.mean(dim=2, keepdim=True), out.var(dim=2, correction=0, keepdim=True)
        out = (out - mean) / (variance + attached.norm.eps).sqrt()
        out = out * attached.norm.weight + attached.norm.bias
        return Made(seen.pooled_BD, tokens, out.sum(dim=1) / math.prod(GRID), out)
    return Made(seen.pooled_BD, tokens, seen.pooled_BD, tokens)


def both_ways(
    one_way: Callable[[Tensor, Tensor], Tensor], predicted: Tensor, target: Tensor
) -> Tensor:
    """The mean over q → v and v → q of a loss between a prediction and the other crop's target."""
    first, second = slice(0, IMAGES), slice(IMAGES, CROPS)
    ways = ((first, second), (second, first))
    return sum(one_way(predicted[v], target[q].detach()) for q, v in ways) / 2


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """−Σ t log p with p at temperature 0.1, the mean over rows."""
    scaled = logits / 0.1
    log_p = scaled - scaled.exp().sum(dim=-1, keepdim=True).log()
    return -(target * log_p).sum(dim=-1).mean()


def dino_by_hand(
    trainer: Trainer,
    student: Made,
    teacher: Made,
    images: Tensor,
    mask: Tensor | None,
    progress: float,
) -> ByHand:
    """ArXiv 2104.14294, equations 1, 2 and 4, with the head's teacher as the base's target."""
    temperature = 0.04 + (0.07 - 0.04) * min(1.0, progress / 0.5)
    nets = trainer.student, trainer.teacher.network
    owners = [(net, next(iter(net.heads.values()), net)) for net in nets]

    def logits(which: int, owner: nn.Module, features: Tensor) -> Tensor:
        z = owner.projection.projector(features)
        prototypes = nets[which].projection.prototypes_PZ
        return (z / z.norm(dim=-1, keepdim=True)) @ (
            prototypes / prototypes.norm(dim=1, keepdim=True)
        ).T

    def target(features: Tensor, role: int, centre: Tensor) -> Tensor:
        shifted = ((logits(1, owners[1][role], features) - centre) / temperature).exp()
        return shifted / shifted.sum(dim=-1, keepdim=True)

    head_target = target(teacher.head_pooled, 1, owners[0][1].projection.centre)
    base_target = target(teacher.base_pooled, 0, owners[0][0].projection.centre)
    base_logits = logits(0, owners[0][0], student.base_pooled)
    patches = torch.zeros((), dtype=torch.float64)
    if mask is not None:
        patch_target = target(teacher.base_tokens, 0, trainer.student.projection.patch_centre)
        patch_logits = logits(0, owners[0][0], student.base_tokens)
        for one in range(CROPS):
            cells = mask[one].flatten().nonzero().flatten().tolist()
            of_cells = [
                cross_entropy(patch_logits[one, cell : cell + 1], patch_target[one, cell].detach())
                for cell in cells
            ]
            patches = patches + sum(of_cells) / max(1, len(cells)) / CROPS
    return ByHand(
        both_ways(cross_entropy, base_logits, head_target),
        both_ways(cross_entropy, logits(0, owners[0][1], student.head_pooled), head_target),
        both_ways(cross_entropy, base_logits, base_target) + patches,
        patches,
    )


def info_nce(queries: Tensor, keys: Tensor) -> Tensor:
    """Mean over images of −log of the own key's share, times 2τ (MoCo v3, algorithm 1)."""
    queries = queries / queries.norm(dim=1, keepdim=True)
    keys = keys / keys.norm(dim=1, keepdim=True)
    loss = torch.zeros((), dtype=torch.float64)
    for i, query in enumerate(queries):
        scores = torch.stack([(query * key).sum() / 0.2 for key in keys])
        loss = loss - (scores[i] - torch.logsumexp(scores, dim=0))
    return 2 * 0.2 * loss / len(queries)


def normalised_error(prediction: Tensor, target: Tensor) -> Tensor:
    """BYOL, equation 2: the squared distance of unit vectors."""
    prediction = prediction / prediction.norm(dim=1, keepdim=True)
    return (prediction - target / target.norm(dim=1, keepdim=True)).square().sum(dim=1).mean()


def predicting_by_hand(
    one_way: Callable[[Tensor, Tensor], Tensor], *, own_teacher: bool = False
) -> Callable[..., ByHand]:
    def terms(
        trainer: Trainer, student: Made, teacher: Made, images: Tensor, mask: None, progress: float
    ) -> ByHand:
        net, target_net = (
            trainer.student,
            trainer.student if own_teacher else trainer.teacher.network,
        )
        targets = student if own_teacher else teacher
        base = net.projection.projector(student.base_pooled)
        base_target = target_net.projection.projector(targets.base_pooled)
        own_base = both_ways(one_way, net.projection.predictor(base), base_target)
        if not net.heads:
            return ByHand(own_base, own_base, own_base, torch.zeros(()))
        (head,), (target_head,) = net.heads.values(), target_net.heads.values()
        own, target = head.projection, target_head.projection.projector(targets.head_pooled)
        head_query = own.predictor(own.projector(student.head_pooled))
        return ByHand(
            both_ways(one_way, own.base_predictor(base), target),
            both_ways(one_way, head_query, target),
            own_base,
            torch.zeros(()),
        )

    return terms


def nt_xent(one: Tensor, other: Tensor) -> Tensor:
    """SimCLR, equation 1, over all 2B crops; temperature 0.1."""
    z = [v / v.norm() for v in (*one, *other)]
    loss = torch.zeros((), dtype=torch.float64)
    for i, anchor in enumerate(z):
        positive = (anchor @ z[(i + len(one)) % len(z)] / 0.1).exp()
        rest = sum((anchor @ other / 0.1).exp() for k, other in enumerate(z) if k != i)
        loss = loss - (positive / rest).log()
    return loss / len(z)


def barlow_twins(one: Tensor, other: Tensor) -> Tensor:
    """Barlow Twins, equations 1 and 2, λ = 0.005; deviations as a batch norm has them."""
    one, other = (
        (z - z.mean(dim=0)) / (z.var(dim=0, correction=0) + 1e-5).sqrt() for z in (one, other)
    )
    loss = torch.zeros((), dtype=torch.float64)
    for i in range(one.shape[1]):
        for j in range(other.shape[1]):
            c = (one[:, i] * other[:, j]).mean()
            loss = loss + ((1 - c) ** 2 if i == j else 0.005 * c**2)
    return loss


def vicreg(one: Tensor, other: Tensor) -> Tensor:
    """VICReg, equations 1 to 6, μ = λ = 25 and ν = 1, the variance averaged over the two sides."""
    loss = 25 * (one - other).square().mean()
    for z in (one, other):
        covariance = torch.cov(z.T)
        deviation = (covariance.diagonal() + 1e-4).sqrt()
        loss = loss + 25 * (1 - deviation).clamp(min=0).mean() / 2
        off_diagonal = covariance - torch.diag(covariance.diagonal())
        loss = loss + off_diagonal.square().sum() / z.shape[1]
    return loss


def between_crops_by_hand(one_way: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., ByHand]:
    def terms(
        trainer: Trainer, student: Made, teacher: Made, images: Tensor, mask: None, progress: float
    ) -> ByHand:
        base = trainer.student.projection.projector(student.base_pooled)
        own_base = one_way(base[:IMAGES], base[IMAGES:])
        for head in trainer.student.heads.values():
            z = head.projection.projector(student.head_pooled)
            toward = both_ways(one_way, head.projection.base_map(base), z)
            return ByHand(toward, one_way(z[:IMAGES], z[IMAGES:]), own_base, torch.zeros(()))
        return ByHand(own_base, own_base, own_base, torch.zeros(()))

    return terms


def mae_by_hand(
    trainer: Trainer, student: Made, teacher: Made, images: Tensor, mask: Tensor, progress: float
) -> ByHand:
    """Masked patches one by one: pixels over their deviation, and the head's tokens likewise."""
    head = next(iter(trainer.student.heads.values()), None)
    pixels_of_base = trainer.student.projection.decoder(student.base_tokens)
    toward, own_head, own_base = (torch.zeros((), dtype=torch.float64) for _ in range(3))
    for one in range(CROPS):
        cells = mask[one].flatten().nonzero().flatten().tolist()
        assert len(cells) == round(0.6 * 16)
        for cell in cells:
            row, column = divmod(cell, 4)
            patch = images[one, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten()
            patch = (patch - patch.mean()) / (patch.var() + 1e-6).sqrt()
            share = len(cells) * CROPS
            own_base = own_base + (pixels_of_base[one, cell] - patch).square().mean() / share
            if head is not None:
                own = head.projection
                pixels = own.decoder(student.head_tokens[one, cell])
                own_head = own_head + (pixels - patch).square().mean() / share
                target = teacher.head_tokens[one, cell].detach()
                target = (target - target.mean()) / (target.var(correction=0) + 1e-5).sqrt()
                guess = own.base_map(student.base_tokens[one, cell])
                toward = toward + (guess - target).square().mean() / share
    return ByHand(toward, own_head, own_base, own_base)


BY_HAND: dict[str, Callable[..., ByHand]] = {
    "dino": dino_by_hand,
    "ibot": dino_by_hand,
    "mocov3": predicting_by_hand(info_nce),
    "byol": predicting_by_hand(normalised_error),
    "simsiam": predicting_by_hand(normalised_error, own_teacher=True),
    "simclr": between_crops_by_hand(nt_xent),
    "barlow": between_crops_by_hand(barlow_twins),
    "vicreg": between_crops_by_hand(vicreg),
    "mae": mae_by_hand,
}


def prepared(
    objective: str, heads: list[str], coupling: Coupling = "joint", **settings: Any
) -> Trainer:
    """A trainer whose teacher and centres are not where they begin."""
    trainer = make_trainer(heads, coupling, objective, **settings)
    different_teacher(trainer)
    generator = torch.Generator().manual_seed(3)
    for name, buffer in trainer.student.named_buffers():
        if name.endswith("centre"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator, dtype=buffer.dtype) / 5)
    trainer.student.train()
    trainer.teacher.network.train()
    return trainer


def mask_of(trainer: Trainer, position: StepPosition) -> Tensor | None:
    generator = seeded_generator(trainer.seed, "mask", position.step)
    return trainer.objective.mask(trainer.student, CROPS, generator)


def by_hand(trainer: Trainer, views: Tensor, position: StepPosition) -> ByHand:
    """The terms of a step's loss, from the trainer's weights and centres as they are."""
    images, mask = views.flatten(0, 1), mask_of(trainer, position)
    student = made(trainer.student, images, mask)
    teacher = made(trainer.teacher.network, images, None)
    name = next(n for n, kind in OBJECTIVES.items() if type(trainer.objective) is kind)
    return BY_HAND[name](trainer, student, teacher, images, mask, position.progress)


def assert_close(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert ours.keys() == expected.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-7, atol=1e-10, msg=name)
