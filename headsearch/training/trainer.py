"""The training step and the loop of one cohort.

Shapes: B images, C = 3 channels, S image side; crops of a step stand as (2B, C, S, S).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headsearch import torchrun
from headsearch.config.recipes import find_recipe
from headsearch.config.settings import RunConfig
from headsearch.device import mixed_precision
from headsearch.models.bases import compile_blocks
from headsearch.models.head_batches import HeadBatches, draw_head_batches
from headsearch.models.network import (
    BASE,
    AttachedHead,
    Features,
    Network,
    NoTeacher,
    Teacher,
    head_of,
    moving_buffers,
)
from headsearch.seeding import seeded_generator, seeded_layers, seeded_weights
from headsearch.training import distributed
from headsearch.training.cuda_graphs import CudaGraphStep
from headsearch.training.meters import Meter, StepStats
from headsearch.training.objectives import Losses, Objective, StepOutputs
from headsearch.training.schedules import (
    StepPosition,
    learning_rate,
    teacher_momentum,
    weight_decay,
)
from headsearch.training.sync_batchnorm import statistics_over_all


@dataclass(frozen=True)
class StepInputs:
    """What a step is computed from.

    Attributes:
        crops_BCSS: 2B of them.
        temperature: of the objective's teacher, ().
        mask_BHW: the patches that the student does not see, where the objective hides any.
        shares: the crops that each head sees, where those are not all.
    """

    crops_BCSS: Tensor
    temperature: Tensor
    mask_BHW: Tensor | None
    shares: HeadBatches | None

    def tensors(self) -> list[Tensor]:
        mask = [] if self.mask_BHW is None else [self.mask_BHW]
        rows = [] if self.shares is None else list(self.shares.rows.values())
        return [self.crops_BCSS, self.temperature, *mask, *rows]

    def of(self, tensors: Sequence[Tensor]) -> StepInputs:
        """The same of other tensors, in the order of `tensors`."""
        crops_BCSS, temperature, *rest = tensors
        mask_BHW = None if self.mask_BHW is None else rest.pop(0)
        heads = () if self.shares is None else self.shares.rows
        rows = dict(zip(heads, rest, strict=True))
        return StepInputs(crops_BCSS, temperature, mask_BHW, HeadBatches(rows) if rows else None)


class Trainer:
    """Student, teacher, objective and optimizer of one cohort, and the step that moves them.

    The step reads nothing back from the device, and on CUDA it is recorded and replayed but for the
    update (`recording.py`). Losses and a flag of each owner's health are kept on the device until
    `read` asks for them. From a step in which any loss or gradient is not finite until
    the next read, steps change nothing at all: `read` then says how many were taken before, and
    which heads are to blame, so that the rest can be taken again without them.

    Attributes:
        unread: steps since the last read.
        images_per_head: how many images of a step each head sees.

    Args:
        student: the base with its projection, no head attached yet.
        objective: the self-supervised objective.
        config: recipe, learning rate, weight decay, seed and the images that each head sees are
            taken from it.
        device: where everything lives.
        autocast: whether matrix products run in bfloat16.
    """

    def __init__(
        self,
        student: Network,
        objective: Objective,
        config: RunConfig,
        device: torch.device,
        *,
        autocast: bool,
    ) -> None:
        self.objective = objective
        self.device = device
        self.autocast = autocast
        self.seed = config.seed
        self.recipe = find_recipe(config.recipe)
        self.images_per_head = config.images_per_head
        self.peak_lr = config.lr
        self.weight_decay = config.weight_decay
        self.student = student.to(device)
        self.teacher = (Teacher if objective.has_teacher else NoTeacher)(self.student)
        if config.compile:
            for network in {self.student, self.teacher.network}:
                compile_blocks(network.base.trunk)
        self._parameters = {BASE: [p for _, p in self.student.base_parameters()]}
        self._meters = {BASE: Meter(device)}
        self._base_sound = torch.ones((), dtype=torch.bool, device=device)
        self._sound = torch.ones((), device=device)  # 0 from a step that is not finite to the read
        self.unread = 0
        # The fused kernel can leave out an update on the device. torch has none for the meta
        # device, on which the tests prove the step free of syncs.
        self._fused = device.type != "meta"
        self.optimizer = torch.optim.AdamW(
            _decay_groups(BASE, self._parameters[BASE], config.weight_decay),
            lr=config.lr,
            fused=self._fused,
        )

        # Of several processes, reductions come between; of several seeds, whose steps take turns,
        # each recording would hold the memory of a step.
        alone = torchrun.count() == 1 and config.seeds == 1
        record = device.type == "cuda" and config.cuda_graphs == "auto" and alone
        self._recorder = CudaGraphStep(self.student.parameters, device, possible=record)

    def attach(
        self, name: str, build: Callable[[], nn.Module], dim: int, feature_index: int = 0
    ) -> None:
        """Attaches a head, with its projection, its teacher copy and its optimizer state.

        Its first weights depend on the seed and its name alone, not on the cohort.
        """
        with seeded_weights(self.seed, "head", name):
            projection = self.objective.head_projection(dim, self.student.projection)
            attached = AttachedHead(build(), dim, projection, feature_index)
        attached.to(self.device)
        self.student.attach(name, attached)
        self.teacher.attach(name, attached)
        self._parameters[name] = list(attached.parameters())
        for group in _decay_groups(name, self._parameters[name], self.weight_decay):
            self.optimizer.add_param_group(group)
        self._meters[name] = Meter(self.device)
        self._recorder.forget()

    def detach(self, name: str) -> None:
        """Takes a head away with all that is its own; everything else stays bitwise as it was."""
        self.student.detach(name)
        self.teacher.detach(name)
        for parameter in self._parameters.pop(name):
            self.optimizer.state.pop(parameter, None)
        self.optimizer.param_groups[:] = [
            group for group in self.optimizer.param_groups if group["owner"] != name
        ]
        del self._meters[name]
        self._recorder.forget()

    def step(self, crops: Tensor, position: StepPosition) -> None:
        """One update of base and heads from two crops of each image, (2, B, C, S, S).

        Of several ranks each takes the crops of its own images, and all make the same update.
        """
        self.unread += 1
        inputs = self._step_inputs(crops.flatten(0, 1), position)
        with self._seeded_layers(position):
            self._recorder(inputs.tensors(), lambda tensors: self._gradients(inputs.of(tensors)))
        self.objective.adjust_gradients(self.student, position)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(position, self.peak_lr, self.recipe)
            if group["decays"]:
                group["weight_decay"] = weight_decay(position, self.weight_decay, self.recipe)
        if self._fused:  # set as torch's gradient scaler does: 1 leaves the update out
            self.optimizer.found_inf = 1 - self._sound  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.teacher.follow(self.student, teacher_momentum(position, self.recipe), self._sound)

    @property
    def settled(self) -> bool:
        """Whether steps take as long from now on as they will take later."""
        return self._recorder.settled

    def rest(self) -> None:
        """Gives back what a recorded step holds; the next steps are recorded anew."""
        self._recorder.forget()

    def _gradients(self, inputs: StepInputs) -> None:
        """The gradients of a step, clipped, and all else that it comes to but for the update."""
        buffers = [buffer for _, buffer in moving_buffers(self.student)]
        before = [buffer.clone() for buffer in buffers]
        features, losses = self._losses(inputs)
        losses.total.backward()
        self._clip(self._over_ranks(features, {BASE: losses.base, **losses.heads}))
        for buffer, old in zip(buffers, before, strict=True):
            buffer.copy_(torch.where(self._sound.bool(), buffer, old))

    def _over_ranks(self, features: Features, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses over the images of all ranks, whose gradients become the same in all."""
        sound = features.base.pooled_BD.isfinite().all()
        values = torch.stack([loss.detach() for loss in losses.values()])
        told = torch.cat([values, torch.where(sound, 0.0, math.nan).to(values).unsqueeze(0)])
        gradients = (p.grad for owned in self._parameters.values() for p in owned)
        distributed.average_over_processes(
            [told, *(gradient for gradient in gradients if gradient is not None)]
        )
        self._base_sound &= told[-1].isfinite()
        return dict(zip(losses, told.unbind(), strict=False))

    def losses(self, crops: Tensor, position: StepPosition) -> tuple[Features, Losses]:
        """The student's features of crops (2B, C, S, S), and the losses of a step on them.

        What the student does not see, patches and paths, is fixed by the seed and the step alone;
        which images a head sees, by its name or by how many heads there are too (`shares.py`).
        """
        with self._seeded_layers(position):
            return self._losses(self._step_inputs(crops, position))

    def _losses(self, inputs: StepInputs) -> tuple[Features, Losses]:
        objective, student = self.objective, self.student.train()
        crops, temperature, mask, shares = (
            inputs.crops_BCSS, inputs.temperature, inputs.mask_BHW, inputs.shares
        )  # fmt: skip
        with mixed_precision(self.device, self.autocast), statistics_over_all():
            if objective.has_teacher:
                teacher = self.teacher.network.train()
                with torch.no_grad():
                    of_teacher = teacher(crops, shares=shares)
                    targets = objective.targets(teacher, student, of_teacher, crops, temperature)
            features = student(crops, mask, shares)
            if not objective.has_teacher:
                with torch.no_grad():
                    targets = objective.targets(student, student, features, crops, temperature)
            return features, objective.losses(StepOutputs(student, features, targets, mask, shares))

    def _step_inputs(self, crops: Tensor, position: StepPosition) -> StepInputs:
        """What a step at this moment is computed from, with the crops of this rank."""
        device, objective, student = self.device, self.objective, self.student
        mask = objective.mask(
            student, torchrun.count() * len(crops), self._generator("mask", position)
        )  # fmt: skip
        return StepInputs(
            crops,
            torch.full((), objective.temperature(position), dtype=torch.float64, device=device),
            distributed.local_crops(mask) if mask is not None else None,
            draw_head_batches(
                self.images_per_head,
                len(crops) // 2,
                list(student.heads),
                seed=self.seed,
                step=position.step,
                device=device,
            ),
        )

    def _seeded_layers(self, position: StepPosition) -> AbstractContextManager[None]:
        """Layers draw for the images that they see: those of other ranks must not get the same."""
        which = (torchrun.rank(),) if torchrun.rank() else ()
        return seeded_layers(self.seed, "drop path", position.step, *which, device=self.device)

    def _generator(self, purpose: str, position: StepPosition) -> torch.Generator | None:
        """A generator for one purpose in one step; torch has none for the meta device."""
        if self.device.type == "meta":
            return None
        return seeded_generator(self.seed, purpose, position.step, device=self.device)

    def _clip(self, losses: dict[str, Tensor]) -> None:
        """Clips each tensor's gradient and meters each owner."""
        finite = {}
        for owner, loss in losses.items():
            gradients = [p.grad for p in self._parameters[owner] if p.grad is not None]
            # A norm a tensor: one over all heads would couple them.
            norms = torch.stack([*torch._foreach_norm(gradients), loss * 0])
            if self.objective.clip_norm is not None:
                scales = (self.objective.clip_norm / (norms + 1e-6)).clamp(max=1)
                torch._foreach_mul_(gradients, list(scales[:-1].unbind()))
            finite[owner] = (loss.isfinite() & norms.isfinite().all()).float()
        before = self._sound.clone()
        self._sound.mul_(torch.stack(list(finite.values())).amin())
        for owner, loss in losses.items():
            self._meters[owner].add(loss, finite[owner], before, self._sound)

    def state(self, heads: Collection[str] | None = None) -> dict[str, Tensor]:
        """All that moves, by name: student, teacher and the optimizer's moments.

        It is all that another trainer needs to go on with the same bits: schedules and randomness
        are functions of the step.

        Args:
            heads: whose state to take beside the base's; by default that of all.
        """
        theirs = set(self.student.heads if heads is None else heads)
        networks = {"student": self.student}
        if self.objective.has_teacher:
            networks["teacher"] = self.teacher.network
        tensors = {
            f"{role}.{name}": tensor.detach()
            for role, network in networks.items()
            for name, tensor in network.state_dict().items()
            if head_of(name) in (None, *theirs)
        }
        for name, parameter in self.student.named_parameters():
            if head_of(name) in (None, *theirs):
                for kind, position in self.optimizer.state.get(parameter, {}).items():
                    tensors[f"optimizer.{kind}.{name}"] = position
        for owner, meter in self._meters.items():
            if owner in (BASE, *theirs):
                tensors[f"meter.{owner}"] = meter.sums
        flags = {"base": self._base_sound, "step": self._sound, "unread": torch.tensor(self.unread)}
        return tensors | {f"flag.{name}": flag for name, flag in flags.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from a `state`, taken with the heads that are attached here and no others."""
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in state.items():
            role, _, rest = name.partition(".")
            parts[role][rest] = tensor
        self.student.load_state_dict(parts["student"])
        if self.objective.has_teacher:
            self.teacher.network.load_state_dict(parts["teacher"])
        self.optimizer.state.clear()
        parameters = dict(self.student.named_parameters())
        for name, tensor in parts["optimizer"].items():
            kind, _, of = name.partition(".")
            self.optimizer.state[parameters[of]][kind] = tensor.clone().to(self.device)
        for owner, sums in parts["meter"].items():
            self._meters[owner].sums = sums.clone().to(self.device)
        flags = {name: flag.clone().to(self.device) for name, flag in parts["flag"].items()}
        self._base_sound, self._sound = flags["base"], flags["step"]
        self.unread = int(flags["unread"])
        self._recorder.forget()

    def read(self) -> StepStats:
        """What happened since the last read, and a fresh start. The one host sync."""
        owners = {owner: meter.read() for owner, meter in self._meters.items()}
        self._sound.fill_(1)
        self.unread = 0
        return StepStats(owners, base_sound=bool(self._base_sound))


def _decay_groups(
    owner: str, parameters: list[nn.Parameter], decay: float
) -> list[dict[str, object]]:
    """An owner's parameters in two groups: decayed, and not (biases, norms and other 1-D ones)."""
    decayed = [p for p in parameters if p.ndim > 1]
    plain = [p for p in parameters if p.ndim <= 1]
    return [
        {
            "params": params,
            "weight_decay": decay if decays else 0.0,
            "owner": owner,
            "decays": decays,
        }
        for params, decays in ((decayed, True), (plain, False))
        if params
    ]
