"""The trainer of one cohort: student, teacher, optimizer and the training step.

Shapes: B images, C = 3 channels, S image side; crops of a step are (2B, C, S, S). An *owner* is the
base or a head: each has its own parameters, gradients and meter.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from headsearch import torchrun
from headsearch.config.recipes import find_recipe
from headsearch.config.settings import RunConfig
from headsearch.device import mixed_precision
from headsearch.models.bases import compile_blocks
from headsearch.models.head_batches import draw_head_batches
from headsearch.models.network import (
    BASE,
    AttachedHead,
    Features,
    HeadFailedError,
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
from headsearch.training.step_inputs import StepInputs
from headsearch.training.sync_batchnorm import statistics_over_all


class Trainer:
    """Student, teacher, objective and optimizer of one cohort, and the step that updates them.

    A step reads nothing back from the device. On CUDA, all of it but the update is recorded and
    replayed (`cuda_graphs.py`). Losses and flags stay on the device until `read`. If a loss or
    gradient is not finite in some step, that step and all later ones up to the next read change
    nothing. `read` then tells how many steps came before it and which heads are to blame, so that
    the caller can detach those heads and take the remaining steps again.

    Attributes:
        unread: the number of steps since the last read.
        images_per_head: which images of a step each head sees (`models/head_batches.py`).

    Args:
        student: the base with its projection, without heads.
        objective: the self-supervised objective.
        config: gives recipe, learning rate, weight decay, seed, and the images that each head sees.
        device: the device of all tensors.
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
        self.peak_lr = config.peak_lr
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
        self._blamed: set[str] = set()  # heads that the last read blamed
        # The fused kernel can skip an update without asking the host. torch has none for the meta
        # device, on which tests check that a step never waits for the device.
        self._fused = device.type != "meta"
        self.optimizer = torch.optim.AdamW(
            _decay_groups(BASE, self._parameters[BASE], config.weight_decay),
            lr=config.peak_lr,
            fused=self._fused,
        )

        # Several processes average gradients in the middle of a step, which is not recorded.
        # Several seeds train in turns, and each recording would hold the memory of a step.
        alone = torchrun.count() == 1 and config.seeds == 1
        record = device.type == "cuda" and config.cuda_graphs == "auto" and alone
        self._graph: CudaGraphStep[StepInputs] = CudaGraphStep(
            self.student.parameters, device, possible=record
        )

    def attach(
        self, name: str, build: Callable[[], nn.Module], dim: int, feature_index: int = 0
    ) -> None:
        """Attaches a head, with its projection, its copy in the teacher and its optimizer state.

        Its first weights depend on the seed and its name alone, not on the cohort.

        Args:
            name: the head's name.
            build: builds the head.
            dim: the width of the base's feature map that it takes.
            feature_index: which of the base's feature maps it takes; 0 is the last.
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
        self._graph.forget()

    def detach(self, name: str) -> None:
        """Removes a head and everything that belongs to it; the rest stays bitwise the same."""
        self.student.detach(name)
        self.teacher.detach(name)
        for parameter in self._parameters.pop(name):
            self.optimizer.state.pop(parameter, None)
        self.optimizer.param_groups[:] = [
            group for group in self.optimizer.param_groups if group["owner"] != name
        ]
        del self._meters[name]
        self._graph.forget()

    def step(self, crops: Tensor, position: StepPosition, local: Tensor | None = None) -> None:
        """One update of base and heads from two crops of each image, (2, B, C, S, S).

        `local` are local crops (L, B, C, s, s), which the base alone sees. In a job of several
        processes, each passes its own images' crops, and all make the same update. Nothing here
        waits for the device.

        Raises:
            HeadFailedError: the code of a head failed; nothing has changed, and the step can be
                taken again once the head is detached.
        """
        assert not self._blamed & self.student.heads.keys(), "a blamed head has to be detached"
        inputs = self._step_inputs(crops.flatten(0, 1), position, local)
        with self._seeded_layers(position):
            self._graph(inputs, self._compute_gradients)  # on CUDA replayed from a recording
        self.unread += 1
        self.objective.adjust_gradients(self.student, position)

        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(position, self.peak_lr, self.recipe)
            if group["decays"]:
                group["weight_decay"] = weight_decay(position, self.weight_decay, self.recipe)
        if self._fused:  # as torch's gradient scaler does: 1 makes the kernel skip the update
            self.optimizer.found_inf = 1 - self._sound  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.teacher.follow(self.student, teacher_momentum(position, self.recipe), self._sound)

    def _compute_gradients(self, inputs: StepInputs) -> None:
        """Forward, backward and clipping; leaves gradients, meters and flags on the device.

        All of it may be recorded as a CUDA graph, so it must not read back from the device.
        """
        buffers = [buffer for _, buffer in moving_buffers(self.student)]
        buffers_before = [buffer.clone() for buffer in buffers]

        try:
            features, losses = self._forward(inputs)
        except HeadFailedError:  # as if this step had not begun: it is taken again without the head
            for buffer, before in zip(buffers, buffers_before, strict=True):
                buffer.copy_(before)
            raise
        losses.total.backward()

        # Every process of a job gets the same losses and gradients: the means over all images. The
        # flag of the features travels along as a NaN, which no mean removes.
        by_owner = {BASE: losses.base, **losses.heads}
        features_sound = features.base.pooled_BD.isfinite().all()
        values = torch.stack([loss.detach() for loss in by_owner.values()])
        shared = torch.cat([values, torch.where(features_sound, 0.0, math.nan).to(values)[None]])
        gradients = (p.grad for owned in self._parameters.values() for p in owned)
        distributed.average_over_processes([shared, *(g for g in gradients if g is not None)])
        self._base_sound &= shared[-1].isfinite()
        by_owner = dict(zip(by_owner, shared.unbind(), strict=False))

        # Clip each tensor by its own norm: a norm over all heads would couple them.
        finite = {}
        for owner, loss in by_owner.items():
            owned = [p.grad for p in self._parameters[owner] if p.grad is not None]
            norms = torch.stack([*torch._foreach_norm(owned), loss * 0])
            if self.objective.clip_norm is not None:
                scales = (self.objective.clip_norm / (norms + 1e-6)).clamp(max=1)
                torch._foreach_mul_(owned, list(scales[:-1].unbind()))
            finite[owner] = (loss.isfinite() & norms.isfinite().all()).float()

        # From the first step that is not finite on, no step changes anything until the next read.
        sound_before = self._sound.clone()
        self._sound.mul_(torch.stack(list(finite.values())).amin())
        for owner, loss in by_owner.items():
            self._meters[owner].add(loss, finite[owner], sound_before, self._sound)
        for buffer, before in zip(buffers, buffers_before, strict=True):
            buffer.copy_(torch.where(self._sound.bool(), buffer, before))

    def _forward(self, inputs: StepInputs) -> tuple[Features, Losses]:
        """The student's features, and its losses against targets of the teacher (or of itself)."""
        with self.step_context():
            outputs = self._outputs(inputs)
            return outputs.features, self.objective.losses(outputs)

    def _outputs(self, inputs: StepInputs) -> StepOutputs:
        """The student's features, and the targets of the teacher (or of itself).

        The base is computed once for all heads, in student and teacher alike.
        """
        objective, student = self.objective, self.student.train()
        crops, batches = inputs.crops_BCSS, inputs.head_batches
        if objective.has_teacher:
            teacher = self.teacher.network.train()
            with torch.no_grad():
                seen = teacher(crops, shares=batches)
                targets = objective.targets(teacher, student, seen, crops, inputs.temperature)
        features = student(crops, inputs.mask_BHW, batches)
        if not objective.has_teacher:
            with torch.no_grad():
                targets = objective.targets(student, student, features, crops, inputs.temperature)
        local = inputs.local_MCss
        local_MD = None if local is None else student.base(local).pooled_BD
        return StepOutputs(student, features, targets, inputs.mask_BHW, batches, local_MD)

    @contextmanager
    def step_context(self) -> Iterator[None]:
        """The context of a step's forward passes: their precision, and batch norm over ranks."""
        with mixed_precision(self.device, self.autocast), statistics_over_all():
            yield

    def outputs(self, crops: Tensor, position: StepPosition) -> StepOutputs:
        """What the losses of a step on crops (2B, C, S, S) are computed from.

        Every head sees all crops, whatever `images_per_head` is. Masked patches and dropped paths
        depend on the seed and the step alone. Call it in `step_context`, in which the losses must
        be computed as well.
        """
        with self._seeded_layers(position):
            inputs = self._step_inputs(crops, position)
            return self._outputs(replace(inputs, head_batches=None))

    def losses(
        self, crops: Tensor, position: StepPosition, local: Tensor | None = None
    ) -> tuple[Features, Losses]:
        """The student's features of crops (2B, C, S, S), and the losses of a step on them.

        `local` are local crops (L, B, C, s, s). Masked patches and dropped paths depend on the seed
        and the step; the images of a head on its name or the number of heads too (`head_batches`).
        """
        with self._seeded_layers(position):
            return self._forward(self._step_inputs(crops, position, local))

    @property
    def settled(self) -> bool:
        """Whether the time of a step will not change any more (`CudaGraphStep.settled`)."""
        return self._graph.settled

    def drop_graph(self) -> None:
        """Frees the memory of a recorded step; it is recorded anew when training continues."""
        self._graph.forget()

    def _step_inputs(
        self, crops: Tensor, position: StepPosition, local: Tensor | None = None
    ) -> StepInputs:
        """Draws the inputs of a step for the crops of this process."""
        device, objective, student = self.device, self.objective, self.student
        # Drawn for the crops of all processes, so that it does not depend on how many there are.
        all_crops = torchrun.count() * len(crops)
        mask = objective.mask(student, all_crops, self._generator("mask", position))
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
            None if local is None else local.flatten(0, 1),
        )

    def _seeded_layers(self, position: StepPosition) -> AbstractContextManager[None]:
        """Seeds what layers draw, such as dropped paths, differently in each process of a job."""
        which = (torchrun.rank(),) if torchrun.rank() else ()
        return seeded_layers(self.seed, "drop path", position.step, *which, device=self.device)

    def _generator(self, purpose: str, position: StepPosition) -> torch.Generator | None:
        """A generator for one purpose in one step; torch has none for the meta device."""
        if self.device.type == "meta":
            return None
        return seeded_generator(self.seed, purpose, position.step, device=self.device)

    def state(self, heads: Collection[str] | None = None) -> dict[str, Tensor]:
        """All tensors that training updates, by name: weights, optimizer moments, meters and flags.

        Another trainer that loads them continues bitwise the same, because schedules and random
        draws are functions of the step.

        Args:
            heads: the heads whose state to include besides the base's; by default all.
        """
        included = set(self.student.heads if heads is None else heads)
        networks = {"student": self.student}
        if self.objective.has_teacher:
            networks["teacher"] = self.teacher.network
        tensors = {
            f"{role}.{name}": tensor.detach()
            for role, network in networks.items()
            for name, tensor in network.state_dict().items()
            if head_of(name) in (None, *included)
        }
        for name, parameter in self.student.named_parameters():
            if head_of(name) in (None, *included):
                for kind, moment in self.optimizer.state.get(parameter, {}).items():
                    tensors[f"optimizer.{kind}.{name}"] = moment
        for owner, meter in self._meters.items():
            if owner in (BASE, *included):
                tensors[f"meter.{owner}"] = meter.sums
        flags = {"base": self._base_sound, "step": self._sound, "unread": torch.tensor(self.unread)}
        return tensors | {f"flag.{name}": flag for name, flag in flags.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Loads a `state` that was taken with exactly the heads that are attached here."""
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
            kind, _, parameter_name = name.partition(".")
            moment = tensor.clone().to(self.device)
            self.optimizer.state[parameters[parameter_name]][kind] = moment
        for owner, sums in parts["meter"].items():
            self._meters[owner].sums = sums.clone().to(self.device)
        flags = {name: flag.clone().to(self.device) for name, flag in parts["flag"].items()}
        self._base_sound, self._sound = flags["base"], flags["step"]
        self.unread = int(flags["unread"])
        self._blamed = set()
        self._graph.forget()

    def read(self) -> StepStats:
        """Losses and flags since the last read. Waits for the device and resets the meters."""
        owners = {owner: meter.read() for owner, meter in self._meters.items()}
        self._sound.fill_(1)
        self.unread = 0
        stats = StepStats(owners, base_sound=bool(self._base_sound))
        self._blamed = stats.blamed
        return stats


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
