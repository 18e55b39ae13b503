"""Builds the bases that are compared, with the weights of their solo runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from headsearch.errors import UserError
from headsearch.models.bases import Base
from headsearch.models.network import AttachedHead
from headsearch.models.space import Candidate
from headsearch.pretraining.explaining.subjects import Subject
from headsearch.pretraining.head_selection import head_on
from headsearch.pretraining.run import HEAD_WEIGHTS, WEIGHTS
from headsearch.runs.run import Run
from headsearch.training.setup import TrainingSetup, first_student


@dataclass(frozen=True)
class Bases:
    """The bases of a search's solo runs.

    Attributes:
        run: the search.
        setup: its data, base and objective.
    """

    run: Run
    setup: TrainingSetup
    _candidates: dict[str, Candidate] = field(default_factory=dict)
    _digests: dict[Path, str] = field(default_factory=dict)

    def base(self, subject: Subject) -> Base:
        """A base in evaluation mode on the device, without gradients of its weights.

        Raises:
            UserError: its weights cannot be read or are not those of this base.
        """
        setup = self.setup
        config = setup.config.model_copy(update={"seed": subject.seed})
        base = first_student(config, setup.plan, setup.objective, "joint").base
        if subject.folder is not None:
            _load(base.trunk, subject, WEIGHTS)
        return base.to(setup.device).eval().requires_grad_(False)

    def head(self, subject: Subject) -> AttachedHead:
        """The head that a base was trained with, likewise; without its projection.

        Raises:
            UserError: as `base`.
        """
        if subject.name not in self._candidates:
            chosen = head_on(self.setup.plan, subject.name, self.run)
            self._candidates[subject.name] = chosen.candidate
        candidate = self._candidates[subject.name]
        dim, grid = self.setup.plan.stages[candidate.feature_index]
        attached = AttachedHead(
            candidate.build(dim, grid), dim, nn.Identity(), candidate.feature_index
        )
        _load(attached, subject, HEAD_WEIGHTS)
        return attached.to(self.setup.device).eval().requires_grad_(False)

    def digest(self, subject: Subject, *, with_head: bool) -> str:
        """What distinguishes its weights from those of another run of the same name."""
        if subject.folder is None:
            return f"first weights of seed {subject.seed}"
        names = [WEIGHTS, HEAD_WEIGHTS] if with_head else [WEIGHTS]
        return " ".join(self._digest(subject.folder / name) for name in names)

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = sha256(path.read_bytes()).hexdigest()
        return self._digests[path]


def _load(module: nn.Module, subject: Subject, name: str) -> None:
    assert subject.folder is not None
    path = subject.folder / name
    try:
        module.load_state_dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except RuntimeError:
        raise UserError(f"{path}: not weights of {subject} on this base") from None
