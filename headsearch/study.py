"""One run: Optuna asks, cohorts train, scores are reported at every rung, the pruner decides.

`prepare` opens and checks everything and writes nothing. `Search` makes the run directory; its
`run` is a generator that searches and yields what happens.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import optuna
import torch
from optuna.trial import TrialState
from torch import nn

import headsearch
from headsearch import checkpoint
from headsearch.bases import Base, BasePlan, plan_base
from headsearch.cohorts import Entrant, cohort_sizes, cohorts, planned
from headsearch.config import BUILT_IN_FULL, RunConfig
from headsearch.data import Data, open_data
from headsearch.errors import UserError, unknown
from headsearch.ledger import Ledger, Standing
from headsearch.machine import set_up
from headsearch.model import Network
from headsearch.objectives import Objective, make_objective
from headsearch.pace import Pace
from headsearch.pruning import make_pruner
from headsearch.samplers import make_sampler
from headsearch.scores.collapse import collapse_reason
from headsearch.scores.discrepancy import DISCREPANCIES
from headsearch.scores.rung import (
    BASE,
    PROBE_IMAGES,
    PROTOTYPE_KL,
    RungScores,
    Scores,
    raw_pixels,
    score_rung,
)
from headsearch.seeding import seeded_weights
from headsearch.space import Listing, ResolvedSpace, find_space, load_space
from headsearch.train import OwnerHealth, Trainer, head_step_ms, steps_per_epoch, train

CPU_IMAGE_SIZE, ACCELERATOR_IMAGE_SIZE = 64, 224
"""The largest image side in pixels that is chosen where `--image-size` is not given."""


@dataclass(frozen=True)
class Prepared:
    """All that a run needs, opened and checked."""

    config: RunConfig
    device: torch.device
    autocast: bool
    data: Data
    plan: BasePlan
    space: ResolvedSpace
    listing: Listing | None
    objective: Objective
    notes: tuple[str, ...]
    """What was decided, a line each, for the run to say before it starts."""

    @property
    def steps(self) -> int:
        return self.config.epochs * steps_per_epoch(self.data.train, self.config)

    @property
    def rank_by(self) -> str:
        if self.config.rank_by != "auto":
            return self.config.rank_by
        return "balanced" if self.data.bank is not None else "discrepancy"

    def rung_step(self, rung: int) -> int:
        """How many steps are done when rung r of R is scored: r/R of all; none before rung 0."""
        return round(self.steps * max(0, rung) / self.config.rungs)


@dataclass(frozen=True)
class Advanced:
    """Some steps of a cohort were done; the ledger holds the new losses."""

    cohort: int
    step: int
    pace: Pace
    ledger: Ledger


@dataclass(frozen=True)
class Scored:
    """A rung was scored and the pruner has decided; the tables are written."""

    cohort: int
    rung: int
    step: int
    scores: RungScores
    pace: Pace
    ledger: Ledger


Event: TypeAlias = Advanced | Scored


def prepare(config: RunConfig, progress: Callable[[int, int], None] | None = None) -> Prepared:
    """Opens the data, fits the base, resolves the space and checks every name. Writes nothing.

    Args:
        config: the resolved settings.
        progress: told how the decoding of images goes.

    Raises:
        UserError: something in the settings, the space or the data cannot be used.
    """
    objective = make_objective(config.objective)
    make_pruner(config.pruner, eta=config.eta, min_keep=config.min_keep, rungs=config.rungs)
    make_sampler(config.sampler, config.seed)
    if config.discrepancy not in (*DISCREPANCIES, PROTOTYPE_KL):
        raise unknown("discrepancy", config.discrepancy, (*DISCREPANCIES, PROTOTYPE_KL))
    if config.discrepancy == PROTOTYPE_KL and not objective.has_prototypes:
        raise UserError(
            f"--discrepancy {PROTOTYPE_KL} needs an objective with prototypes (dino), but "
            f"--objective is {config.objective}"
        )
    space = load_space(find_space(config.space))
    device, autocast = set_up(config)
    accelerator = device.type != "cpu"
    data = open_data(
        config.data,
        config.eval_data,
        image_size=config.image_size,
        images=config.images or (BUILT_IN_FULL if config.data == "scenes" else 0),
        eval_images=config.eval_images,
        bank_images=config.bank_images,
        seed=config.seed,
        max_image_size=ACCELERATOR_IMAGE_SIZE if accelerator else CPU_IMAGE_SIZE,
        data_dir=config.data_dir,
        download=config.download,
        progress=progress,
    )
    if data.bank is None and config.rank_by in ("accuracy", "balanced"):
        raise UserError(
            f"--rank-by {config.rank_by} needs labels, and {config.eval_data or config.data} has "
            "none; use --rank-by discrepancy or labelled --eval-data"
        )
    plan = plan_base(
        config.base,
        data.train.image_size,
        patch_size=config.patch_size,
        accelerator=accelerator,
    )
    resolved = space.on(plan)
    listing = resolved.enumerate(config.trials)
    prepared = Prepared(
        config, device, autocast, data, plan, resolved, listing, objective, notes=()
    )
    if prepared.steps < config.rungs:
        raise UserError(
            f"{prepared.steps} steps are fewer than {config.rungs} rungs; use more --images or "
            "--epochs, or a smaller --batch-size or --rungs"
        )
    return replace(prepared, notes=tuple(_notes(prepared)))


def _notes(prepared: Prepared) -> Iterator[str]:
    config, data, listing = prepared.config, prepared.data, prepared.listing
    yield str(prepared.plan)
    labels = f", {len(data.bank.classes)} classes" if data.bank is not None else ", no labels"
    yield f"{len(data.train)} training images from {config.data}{labels}"
    yield from data.notes
    count = planned(prepared.space, listing, config)
    if listing is None:
        yield f"{count} candidates, sampled by {config.sampler} from {prepared.space.space.source}"
    else:
        left_out = f"; {len(listing.excluded)} left out by constraints" if listing.excluded else ""
        yield f"{count} candidates: all of {prepared.space.space.source}{left_out}"
    yield from prepared.space.notes
    yield (
        f"{prepared.steps} steps of {config.batch_size} images ({config.epochs} epochs), scored at "
        f"{config.rungs} rungs, ranked by {prepared.rank_by}, heads {config.coupling}"
    )
    threads = f" with {torch.get_num_threads()} threads" if prepared.device.type == "cpu" else ""
    yield f"{prepared.device}{threads}, {'bf16' if prepared.autocast else 'float32'}"


def _settings(prepared: Prepared, run_directory: Path) -> dict[str, Any]:
    """What config.yaml holds: the settings, and all else that decides what the run finds."""
    space = prepared.space.space
    packages = ("torch", "torchvision", "timm", "optuna", "numpy")
    return {
        **prepared.config.model_dump(mode="json"),
        "rank_by": prepared.rank_by,
        "image_size": prepared.data.train.image_size,
        "device": str(prepared.device),
        "precision": "bf16" if prepared.autocast else "float32",
        "threads": torch.get_num_threads(),
        "out": str(run_directory),
        "study_name": f"{run_directory.name}-{space.hash}",
        "space_hash": space.hash,
        "space_content": space.written(),
        "base_arguments": {"timm_name": prepared.plan.timm_name, **prepared.plan.arguments},
        "git_commit": _git_commit(),
        "versions": {
            "headsearch": headsearch.__version__,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
    }


def _git_commit() -> str | None:
    """The commit of headsearch's own source tree, where it runs from one."""
    here = Path(__file__).parent
    try:
        tracked = subprocess.run(
            ["git", "ls-files", "--error-unmatch", Path(__file__).name], cwd=here,
            capture_output=True, check=False,
        )  # fmt: skip
        if tracked.returncode != 0:
            return None
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return head.stdout.strip() or None


@dataclass
class _Live:
    """A head that still trains: its Optuna trial and its row."""

    trial: optuna.Trial
    standing: Standing


class Search:
    """A search in its run directory: one loop over cohorts, in each one loop over rungs.

    Making one writes the run directory with its config.yaml and the Optuna study.

    Attributes:
        run_directory: where it writes; fresh.

    Raises:
        UserError: the run directory exists or cannot be made.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.config = config = prepared.config
        self.run_directory = checkpoint.new_run_directory(
            config.out, f"{config.base}-{Path(config.space).stem}"
        )
        settings = _settings(prepared, self.run_directory)
        checkpoint.create(self.run_directory, settings)
        self.study = optuna.create_study(
            study_name=settings["study_name"],
            storage=checkpoint.storage_url(self.run_directory, settings),
            direction="maximize",
            sampler=make_sampler(config.sampler, config.seed),
            pruner=make_pruner(
                config.pruner, eta=config.eta, min_keep=config.min_keep, rungs=config.rungs
            ),
        )
        self.ledger = Ledger()
        count = planned(prepared.space, prepared.listing, config)
        self.pace = Pace(
            config.batch_size,
            prepared.steps,
            config.rungs,
            len(cohort_sizes(count, config.cohort)),
        )
        self.facts = _first_facts(prepared)

    def run(self) -> Generator[Event, None, None]:
        """Searches, yielding what happens; whoever shows it needs no callback.

        Closing the generator, or Ctrl-C, ends the search early: what was scored stays in the run
        directory, marked as interrupted.

        Raises:
            UserError: the base itself diverges.
        """
        status = "interrupted"
        try:
            self._save("running")
            if self.prepared.data.bank is not None:
                self._note_baseline("raw", raw_pixels(self.prepared.data))
            asked = cohorts(self.study, self.prepared.space, self.prepared.listing, self.config)
            for index, entrants in enumerate(asked):
                yield from self._train_cohort(index, entrants)
            status = "complete"
        except UserError:
            status = "failed"
            raise
        finally:
            self._save(status)

    def _train_cohort(self, cohort: int, entrants: list[Entrant]) -> Iterator[Event]:
        """Trains one cohort from the base's first weights through all rungs."""
        prepared = self.prepared
        trainer = self._new_trainer()
        live = {}
        for entrant in entrants:
            standing = self.ledger.enter(entrant.candidate, cohort, self._attach(trainer, entrant))
            live[entrant.candidate.name] = _Live(entrant.trial, standing)
        for rung in range(self.config.rungs + 1):
            first, last = prepared.rung_step(rung - 1), prepared.rung_step(rung)
            self.pace.start()
            for progress in train(trainer, prepared.data.train, self.config, first, last):
                self.pace.trained(progress.step - first)
                self._note_cost(progress.step - first, live)
                self._note_health(progress.health, trainer, live)
                first = progress.step
                yield Advanced(cohort, progress.step, self.pace, self.ledger)
                self.pace.start()
            scores = self._score(trainer, cohort, rung, last, live)
            self._decide(trainer, rung, live)
            self._save("running")
            yield Scored(cohort, rung, last, scores, self.pace, self.ledger)
            if not live:
                return

    def _new_trainer(self) -> Trainer:
        """A base that depends on the seed alone: every cohort starts from the same weights."""
        prepared = self.prepared
        with seeded_weights(self.config.seed, "base"):
            base = Base(prepared.plan.timm_name, prepared.plan.arguments)
            projection = prepared.objective.base_projection(prepared.plan.dim)
        student = Network(base, projection, self.config.coupling)
        return Trainer(
            student, prepared.objective, self.config, prepared.device, autocast=prepared.autocast
        )

    def _attach(self, trainer: Trainer, entrant: Entrant) -> float:
        """Attaches an entrant's head; returns what a step of it takes on its own, in ms."""
        prepared, dim, grid = self.prepared, self.prepared.plan.dim, self.prepared.plan.grid

        def build() -> nn.Module:
            return entrant.candidate.build(dim, grid)

        trainer.attach(entrant.candidate.name, build, dim)
        features = torch.randn(2 * self.config.batch_size, dim, *grid, device=prepared.device)
        return head_step_ms(build, features, autocast=prepared.autocast)

    def _score(
        self, trainer: Trainer, cohort: int, rung: int, step: int, live: dict[str, _Live]
    ) -> RungScores:
        """Scores base and heads, sets collapsed heads aside, reports the others to Optuna."""
        prepared, config = self.prepared, self.config
        self.pace.start()
        scores = score_rung(
            trainer.teacher.network,
            prepared.data,
            measure=config.discrepancy,
            batch_size=2 * config.batch_size,
            autocast=prepared.autocast,
            prototypes=prepared.objective.prototypes_of(trainer.teacher.network),
        )
        self.facts["dominant_share"] = scores.dominant_share
        if scores.base.report is not None:
            self._note_baseline("untrained" if rung == 0 else "base", scores.base)
        for name, head in list(live.items()):
            own = scores.heads[name]
            images = step * config.batch_size
            self.ledger.record(head.standing, rung, step, images, scores)
            head.standing.score = own.by(prepared.rank_by)
            reason = self._collapse(own, scores.base)
            if rung and reason is not None:
                self._leave(trainer, live, name, "collapsed", TrialState.FAIL, reason)
            else:
                head.trial.report(head.standing.score, rung)
        self.pace.scored()
        return scores

    def _collapse(self, head: Scores, base: Scores) -> str | None:
        """Why a head counts as collapsed, None if it does not."""
        use = head.prototype_use
        return collapse_reason(
            head.effective_rank,
            self.prepared.plan.dim,
            use.of_mean if use else None,
            use.prototypes if use else None,
            images=len(self.prepared.data.queries),
            base_rank=base.effective_rank,
            image_entropy=use.of_images if use else None,
            base_information=base.prototype_use.information if base.prototype_use else None,
        )

    def _decide(self, trainer: Trainer, rung: int, live: dict[str, _Live]) -> None:
        """Lets the pruner decide at a rung; after the last one, every head is complete."""
        if rung == self.config.rungs:
            for name in list(live):
                self._leave(trainer, live, name, "complete", TrialState.COMPLETE, "")
        elif rung > 0:
            # All have reported, and all are asked before any is told: no order can matter.
            pruned = [name for name, head in live.items() if head.trial.should_prune()]
            contest = sum(not head.standing.candidate.control for head in live.values())
            for name in pruned:
                reason = f"not among the best {contest - len(pruned)} of {contest} at rung {rung}"
                self._leave(trainer, live, name, "pruned", TrialState.PRUNED, reason)

    def _leave(
        self,
        trainer: Trainer,
        live: dict[str, _Live],
        name: str,
        state: str,
        trial_state: TrialState,
        reason: str,
    ) -> None:
        """Ends a head's training: in the network, in Optuna and in the tables."""
        head = live.pop(name)
        trainer.detach(name)
        head.standing.state, head.standing.reason = state, reason
        row = head.standing.row()
        for key in ("discrepancy", "head_knn", "head_linear", "reason"):
            if row[key] == row[key] and row[key] != "":
                head.trial.set_user_attr(key, row[key])
        value = head.standing.score if trial_state == TrialState.COMPLETE else None
        self.study.tell(head.trial, value, trial_state)

    def _note_health(
        self, health: dict[str, OwnerHealth], trainer: Trainer, live: dict[str, _Live]
    ) -> None:
        """Notes the losses; sets aside heads whose loss or gradient was not finite."""
        diverged = [name for name in live if not health[name].finite]
        for name, head in live.items():
            head.standing.loss = health[name].loss
        for name in diverged:
            reason = "loss or gradient not finite"
            self._leave(trainer, live, name, "failed", TrialState.FAIL, reason)
        if not diverged and not health[BASE].finite:
            raise UserError(
                f"the base diverged: its loss or gradient is not finite; try a lower --lr than "
                f"{self.config.lr:g}"
            )

    def _note_cost(self, steps: int, live: dict[str, _Live]) -> None:
        """Adds up what training cost, in units of the base's own training of the same length."""
        whole = self.prepared.plan.gflops
        heads = sum(head.standing.candidate.gflops for head in live.values()) / whole
        self.facts["cost_base_equivalents"] += (1 + heads) * steps / self.prepared.steps
        self.facts["solo_equivalents"] = sum(
            1 + standing.candidate.gflops / whole for standing in self.ledger.standings.values()
        )

    def _note_baseline(self, name: str, scores: Scores) -> None:
        if scores.report is not None:
            self.facts["baselines"][f"{name}_knn"] = scores.report.knn
            self.facts["baselines"][f"{name}_linear"] = scores.report.linear

    def _save(self, status: str) -> None:
        """Writes the tables and the facts as they are now."""
        self.facts.update(status=status, **self.pace.facts())
        self.study.set_user_attr("facts", self.facts)
        self.ledger.write(self.run_directory)


def _first_facts(prepared: Prepared) -> dict[str, Any]:
    """What a run says about itself: read back as `checkpoint.Run.facts`."""
    data, plan = prepared.data, prepared.plan
    return {
        "started": datetime.now().isoformat(timespec="seconds"),
        "base": {
            "name": plan.name,
            "timm_name": plan.timm_name,
            "dim": plan.dim,
            "grid": list(plan.grid),
            "params_m": plan.params_m,
            "gflops": plan.gflops,
        },
        "device": str(prepared.device),
        "precision": "bf16" if prepared.autocast else "float32",
        "threads": torch.get_num_threads(),
        "images": len(data.train),
        "eval": {
            "bank": len(data.bank) if data.bank is not None else 0,
            "choose": len(data.choose),
            "report": len(data.report),
            "probe": min(PROBE_IMAGES, len(data.queries)),
            "classes": len(data.bank.classes) if data.bank is not None else 0,
        },
        "labelled": data.bank is not None,
        "baselines": {},
        "rung_count": prepared.config.rungs,
        "steps": prepared.steps,
        "space_size": prepared.space.size,
        "excluded": len(prepared.listing.excluded) if prepared.listing is not None else None,
        "cost_base_equivalents": 0.0,
        "solo_equivalents": 0.0,
    }
