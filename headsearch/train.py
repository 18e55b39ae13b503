"""The training step and the loop of one cohort.

Shapes: B images, C = 3 channels, S image side; crops of a step stand as (2B, C, S, S).
"""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headsearch import job, ranks
from headsearch.bases import compile_blocks
from headsearch.config import RunConfig
from headsearch.data import Images, ViewSettings, epoch_order, make_views
from headsearch.machine import mixed_precision, staged, synchronize
from headsearch.model import (
    AttachedHead,
    Features,
    Network,
    NoTeacher,
    Teacher,
    head_of,
    moving_buffers,
)
from headsearch.objectives import Losses, Objective, Seen
from headsearch.recipes import find_recipe
from headsearch.schedules import Moment, learning_rate, teacher_momentum, weight_decay
from headsearch.scores.rung import BASE
from headsearch.seeding import seeded_generator, seeded_layers, seeded_weights
from headsearch.shares import share_out

READ_EVERY = 10
"""Steps between two reads of losses and health from the device."""
ALONE_TIMES, ALONE_S = 3, 0.1
"""How often, and for how many seconds, a head's forward and backward is timed when it enters."""


class Trainer:
    """Student, teacher, objective and optimizer of one cohort, and the step that moves them.

    The step reads nothing back from the device. Losses and a flag of each owner's health are kept
    there until `read` asks for them. From a step in which any loss or gradient is not finite until
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
        self._meters = {BASE: _Meter(device)}
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

    def attach(self, name: str, build: Callable[[], nn.Module], dim: int, place: int = 0) -> None:
        """Attaches a head, with its projection, its teacher copy and its optimizer state.

        Its first weights depend on the seed and its name alone, not on the cohort.
        """
        with seeded_weights(self.seed, "head", name):
            projection = self.objective.head_projection(dim, self.student.projection)
            attached = AttachedHead(build(), dim, projection, place)
        attached.to(self.device)
        self.student.attach(name, attached)
        self.teacher.attach(name, attached)
        self._parameters[name] = list(attached.parameters())
        for group in _decay_groups(name, self._parameters[name], self.weight_decay):
            self.optimizer.add_param_group(group)
        self._meters[name] = _Meter(self.device)

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

    def step(self, crops: Tensor, moment: Moment) -> None:
        """One update of base and heads from two crops of each image, (2, B, C, S, S).

        Of several ranks each takes the crops of its own images, and all make the same update.
        """
        self.unread += 1
        buffers = [buffer for _, buffer in moving_buffers(self.student)]
        before = [buffer.clone() for buffer in buffers]
        features, losses = self.losses(crops.flatten(0, 1), moment)
        losses.total.backward()
        self.objective.adjust_gradients(self.student, moment)

        self._clip(self._over_ranks(features, {BASE: losses.base, **losses.heads}))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(moment, self.peak_lr, self.recipe)
            if group["decays"]:
                group["weight_decay"] = weight_decay(moment, self.weight_decay, self.recipe)
        if self._fused:  # set as torch's gradient scaler does: 1 leaves the update out
            self.optimizer.found_inf = 1 - self._sound  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for buffer, old in zip(buffers, before, strict=True):
            buffer.copy_(torch.where(self._sound.bool(), buffer, old))
        self.teacher.follow(self.student, teacher_momentum(moment, self.recipe), self._sound)

    def _over_ranks(self, features: Features, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses over the images of all ranks, whose gradients become the same in all."""
        sound = features.base.pooled_BD.isfinite().all()
        values = torch.stack([loss.detach() for loss in losses.values()])
        told = torch.cat([values, torch.where(sound, 0.0, math.nan).to(values).unsqueeze(0)])
        gradients = (p.grad for owned in self._parameters.values() for p in owned)
        ranks.average([told, *(gradient for gradient in gradients if gradient is not None)])
        self._base_sound &= told[-1].isfinite()
        return dict(zip(losses, told.unbind(), strict=False))

    def losses(self, crops: Tensor, moment: Moment) -> tuple[Features, Losses]:
        """The student's features of crops (2B, C, S, S), and the losses of a step on them.

        What the student does not see, patches and paths, is fixed by the seed and the step alone;
        which images a head sees, by its name or by how many heads there are too (`shares.py`).
        """
        objective, student = self.objective, self.student.train()
        shares = share_out(
            self.images_per_head,
            len(crops) // 2,
            list(student.heads),
            seed=self.seed,
            step=moment.step,
            device=self.device,
        )
        with mixed_precision(self.device, self.autocast), ranks.statistics_over_all():
            if objective.has_teacher:
                teacher = self.teacher.network.train()
                with torch.no_grad():
                    of_teacher = teacher(crops, shares=shares)
                    targets = objective.targets(teacher, student, of_teacher, crops, moment)
            generator = self._generator("mask", moment)
            mask = objective.mask(student, job.count() * len(crops), generator)
            mask = ranks.own_crops(mask) if mask is not None else None
            # Layers draw for the images that they see: those of other ranks must not get the same.
            which = (job.rank(),) if job.rank() else ()
            with seeded_layers(self.seed, "drop path", moment.step, *which, device=self.device):
                features = student(crops, mask, shares)
            if not objective.has_teacher:
                with torch.no_grad():
                    targets = objective.targets(student, student, features, crops, moment)
            return features, objective.losses(Seen(student, features, targets, mask, shares))

    def _generator(self, purpose: str, moment: Moment) -> torch.Generator | None:
        """A generator for one purpose in one step; torch has none for the meta device."""
        if self.device.type == "meta":
            return None
        return seeded_generator(self.seed, purpose, moment.step, device=self.device)

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
        before = self._sound
        self._sound = before * torch.stack(list(finite.values())).amin()
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
                for kind, moment in self.optimizer.state.get(parameter, {}).items():
                    tensors[f"optimizer.{kind}.{name}"] = moment
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

    def read(self) -> Health:
        """What happened since the last read, and a fresh start. The one host sync."""
        owners = {owner: meter.read() for owner, meter in self._meters.items()}
        self._sound = torch.ones_like(self._sound)
        self.unread = 0
        return Health(owners, base_sound=bool(self._base_sound))


@dataclass(frozen=True)
class OwnerHealth:
    """What the meter of one owner says.

    Attributes:
        loss: the mean over the steps that count.
        steps: how many count: those before the first that was not finite.
        finite: whether the owner was not to blame for that one.
    """

    loss: float
    steps: int
    finite: bool


@dataclass(frozen=True)
class Health:
    """Each owner's loss and health, and whether the base's own features were finite.

    In joint coupling a sick head makes the base's gradients sick as well; its features stay sound,
    since such an update is never made.
    """

    owners: dict[str, OwnerHealth]
    base_sound: bool

    @property
    def blamed(self) -> set[str]:
        """Heads whose loss or gradient was not finite in the first step that does not count."""
        return {owner for owner, health in self.owners.items() if owner and not health.finite}

    @property
    def steps(self) -> int:
        """How many steps since the read before were taken; later ones changed nothing."""
        return self.owners[BASE].steps


@dataclass(frozen=True)
class Progress:
    """How far a cohort is: steps done, and how base and heads fared since the last report.


    Attributes:
        step: steps done; fewer than before where some did not count.
        health: None where training stopped between two reads, as it was asked to.
    """

    step: int
    health: Health | None


class _Meter:
    """Sums of one owner's losses and its health, kept on the device."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, device=device)  # loss, steps that count, times to blame

    def add(self, loss: Tensor, finite: Tensor, before: Tensor, sound: Tensor) -> None:
        """Adds a step.

        Args:
            finite: 1 where loss and gradients of this owner are, else 0.
            before: whether all was finite up to this step.
            sound: whether it still is, and the step counts.
        """
        kept = torch.where(sound.bool(), loss, 0.0).float()
        self.sums += torch.stack([kept, sound, before * (1 - finite)])

    def read(self) -> OwnerHealth:
        loss, steps, to_blame = self.sums.tolist()
        self.sums.zero_()
        return OwnerHealth(loss / steps if steps else math.nan, int(steps), to_blame == 0)


def train(
    trainer: Trainer,
    images: Images,
    config: RunConfig,
    first: int,
    last: int,
    stop: Callable[[], bool] = lambda: False,
    begin: Callable[[range], None] = lambda window: None,
) -> Iterator[Progress]:
    """Runs the steps `first` … `last` − 1, reading losses and health now and then.

    The caller detaches heads between two reports, at least those that a report blames: what was
    not taken because of them is taken again, without them. Once `stop` says so, the step that is
    under way is the last.

    Args:
        begin: told which steps come next, before each report.
    """
    step, counted = first, first - trainer.unread
    while step < last:
        window = range(step, min(last, (step // READ_EVERY + 1) * READ_EVERY))
        begin(window)
        step = take_steps(trainer, images, config, window, stop)
        if step < window.stop:
            yield Progress(step, None)
            return
        health = trainer.read()
        step = counted = counted + health.steps
        yield Progress(step, health)
        assert not health.blamed & trainer.student.heads.keys(), "they would be to blame forever"
        if stop():
            return


def take_steps(
    trainer: Trainer,
    images: Images,
    config: RunConfig,
    window: range,
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Takes these steps, or those up to where one of the ranks is to stop; says which is next."""
    steps = config.epochs * steps_per_epoch(images, config)
    for step, crops in zip(window, batches(images, config, window, trainer.device), strict=True):
        trainer.step(crops, Moment(step, steps))
        if ranks.any_of(stop()):
            return step + 1
    return window.stop


def batches(
    images: Images, config: RunConfig, steps: Iterable[int], device: torch.device
) -> Iterator[Tensor]:
    """Two crops of each image, (2, B, C, S, S), a batch a step, on the training device.

    Order and augmentation of a step are fixed by the seed and the step's number alone, and each
    rank has those of its own images. The images of the next step are read, or decoded, while the
    device works on those of this one.
    """
    per_epoch = steps_per_epoch(images, config)
    settings = ViewSettings(crop_scale=find_recipe(config.recipe).crop_scale)

    def read(step: int) -> Tensor:
        epoch, place = divmod(step, per_epoch)
        order = epoch_order(len(images), epoch, config.seed)
        chosen = order[place * config.batch_size : (place + 1) * config.batch_size]
        return staged(images.batch(ranks.own_images(chosen)), device)

    for step, batch in read_ahead(read, steps):
        generator = seeded_generator(config.seed, "views", step, device=device)
        part = (job.rank(), job.count())
        yield make_views(batch.to(device, non_blocking=True), generator, settings, part=part)


def read_ahead(read: Callable[[int], Tensor], steps: Iterable[int]) -> Iterator[tuple[int, Tensor]]:
    """Each step with what is read for it, the next one's in a thread meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as ahead:
        coming: deque[tuple[int, Future[Tensor]]] = deque()
        for step in steps:
            coming.append((step, ahead.submit(read, step)))
            if len(coming) == 2:
                before, found = coming.popleft()
                yield before, found.result()
        while coming:
            step, found = coming.popleft()
            yield step, found.result()


def steps_per_epoch(images: Images, config: RunConfig) -> int:
    """Whole batches in an epoch; a last partial one is left out."""
    return max(1, len(images) // config.batch_size)


def head_step_ms(build: Callable[[], nn.Module], features_BDHW: Tensor, *, autocast: bool) -> float:
    """What one forward and backward of a head on given features takes, in milliseconds.

    On a head of its own, warmed up on some of the images: a head in training is not touched. The
    least of `ALONE_TIMES` passes, or of fewer once they have taken `ALONE_S` together: a long one
    wants no repeat, and a search does this for every head before its first step.
    """
    device = features_BDHW.device
    with torch.random.fork_rng(devices=[]):
        head = build().to(device)
    weights = list(head.parameters())

    def seconds(inputs: Tensor) -> float:
        inputs = inputs.detach().requires_grad_()
        synchronize(device)
        started = time.perf_counter()
        with mixed_precision(device, autocast):
            output = head(inputs)
        torch.autograd.grad(output.float().mean(), [inputs, *weights], allow_unused=True)
        synchronize(device)
        return time.perf_counter() - started

    seconds(features_BDHW[: max(1, len(features_BDHW) // 8)])
    times: list[float] = []
    while len(times) < ALONE_TIMES and sum(times) < ALONE_S:
        times.append(seconds(features_BDHW))
    return 1000 * min(times)


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
