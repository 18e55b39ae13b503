"""Absorption: whether what a head teaches the base also serves the base's own objective.

Label-free, and defined for every objective. Measured at a few rungs of a search, on crops of the
evaluation images, which training never sees.

Shapes: 2B crops; A and O are two batches of crops of different images.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor, nn

from headsearch import torchrun
from headsearch.data.loader import Loader
from headsearch.models.network import moving_buffers
from headsearch.training import distributed
from headsearch.training.objectives import StepOutputs
from headsearch.training.schedules import StepPosition
from headsearch.training.setup import TrainingSetup
from headsearch.training.trainer import Trainer

RUNGS = (1, 2)
"""The rungs at which absorption is measured."""
MOST_BATCHES = 2
"""At most so many batches on either side."""
LARGEST_SHARE = 0.05
"""At most this share of a search's steps is spent on it, in steps of the base alone."""
FIT_STEPS, FIT_RATE = 50, 3e-3
"""Steps and learning rate of Adam with which the modules are fitted through which the base predicts
a head's targets."""


def absorption(trainer: Trainer, setup: TrainingSetup, step: int, batches: int) -> dict[str, float]:
    """The absorption of each observing head of a trainer, which is left as it was.

    The mean over batches A of cos(g_h(A), g(O)). g_h is the gradient of the heterogeneous loss of
    head h with respect to the base's parameters (without its projection), g that of the base's own
    loss, and O are batches of other images. −1 to 1. To first order, a small step of the base
    against g_h changes its own loss on images that it has not seen in proportion to minus this
    cosine. It is the normalised form of the inter-task affinity of TAG (Fifty et al. 2021,
    arXiv 2109.04617, equation 1), which takes such a step. `identity` does not score 0: its
    heterogeneous loss is nearly the base's own.

    The modules of a head through which the base predicts its targets are not trained while heads
    observe. They are fitted on O first, and restored afterwards.

    Where heads are joined to the base, it trains on their losses in place of its own, and this has
    no meaning.

    All processes of a job call it, each with its share of the images.

    Args:
        trainer: student and teacher.
        setup: gives evaluation images and settings.
        step: the number of steps taken so far, for the temperature of the objective.
        batches: the number of batches A, and of batches O.
    """
    assert trainer.student.coupling == "observe"
    before = [(tensor, tensor.clone()) for tensor in _changing(trainer)]
    try:
        return _cosines(trainer, setup, step, batches)
    finally:
        with torch.no_grad():
            for tensor, value in before:
                tensor.copy_(value)


def affordable_batches(setup: TrainingSetup, heads: int) -> int:
    """How many batches A fit into the budget; 0 if none does.

    A batch A costs a forward of the base and a backward of it for each head; a batch O costs as
    much as a step of the base.
    """
    cost_in_steps = len(RUNGS) * (4 / 3 + 2 / 3 * heads)
    return min(MOST_BATCHES, int(LARGEST_SHARE * setup.steps / cost_in_steps))


def _changing(trainer: Trainer) -> list[Tensor]:
    """What `_cosines` changes: statistics of both networks, and the projections of heads."""
    return [
        *(
            buffer
            for network in (trainer.student, trainer.teacher.network)
            for _, buffer in moving_buffers(network)
        ),
        *(p.data for head in trainer.student.heads.values() for p in head.projection.parameters()),
    ]


def _cosines(trainer: Trainer, setup: TrainingSetup, step: int, batches: int) -> dict[str, float]:
    objective, student = trainer.objective, trainer.student
    parameters = [p for p in student.base.parameters() if p.requires_grad]
    position = StepPosition(min(step, setup.steps - 1), setup.steps)
    # All processes get equally many images.
    size = min(setup.config.batch_size, len(setup.data.queries))
    size = size // torchrun.count() * torchrun.count()
    config = setup.config.model_copy(update={"batch_size": size, "epochs": 2 * batches})
    loader = Loader(setup.data.queries, config, trainer.device)

    own = torch.zeros(())
    for batch in range(batches):
        with trainer.step_context():
            outputs = trainer.outputs(loader.crops(batch).flatten(0, 1), position)
            embedding = objective.embedding_of_base(outputs)
            loss = objective.own_loss_of_base(outputs, embedding)
        own = own.to(loss.device) + _gradient(loss, parameters)
        for name in student.heads:
            _fit_map(trainer, outputs, name, embedding.detach())

    cosines: dict[str, list[float]] = {name: [] for name in student.heads}
    for batch in range(batches, 2 * batches):
        with trainer.step_context():
            outputs = trainer.outputs(loader.crops(batch).flatten(0, 1), position)
            embedding = objective.embedding_of_base(outputs)
            losses = {
                name: objective.loss_toward_head(outputs, name, embedding) for name in student.heads
            }
        for name, loss in losses.items():
            cosine = torch.cosine_similarity(_gradient(loss, parameters), own, dim=0)
            cosines[name].append(float(cosine))
    return {name: fmean(values) for name, values in cosines.items()}


def _fit_map(trainer: Trainer, outputs: StepOutputs, name: str, embedding: Tensor) -> None:
    """Fits the modules of a head through which the base predicts its targets, if it has any.

    Args:
        trainer: holds the head.
        outputs: of a batch.
        name: of the head.
        embedding: the base's, detached.
    """

    def loss() -> Tensor:
        # A context of its own: autocast would go on using the weights before the update.
        with trainer.step_context():
            return trainer.objective.loss_toward_head(outputs, name, embedding)

    of_head = list(trainer.student.heads[name].projection.parameters())
    first = loss()
    if not first.requires_grad:  # the base predicts with modules of its own alone
        return
    used = torch.autograd.grad(first, of_head, allow_unused=True)
    fitted = [p for p, gradient in zip(of_head, used, strict=True) if gradient is not None]
    # The usual eps of 1e-8 would enlarge gradients that are 0 but for rounding.
    optimizer = torch.optim.Adam(fitted, lr=FIT_RATE, eps=1e-5)
    for _ in range(FIT_STEPS):
        gradients = torch.autograd.grad(loss(), fitted)
        distributed.average_over_processes(gradients)
        for parameter, gradient in zip(fitted, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _gradient(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The gradient of a loss as one vector, the mean over the processes of a job."""
    parts = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    vector = torch.cat(
        [
            (torch.zeros_like(p) if part is None else part).flatten()
            for p, part in zip(parameters, parts, strict=True)
        ]
    )
    distributed.average_over_processes([vector])
    return vector
