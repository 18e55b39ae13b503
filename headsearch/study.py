"""One run: Optuna asks, cohorts train, scores are reported at every rung, the pruner decides.

`Search` makes the run directory of what `preparation.prepare` made ready; its `run` is a generator
that searches and yields what happens.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

import optuna
import torch
from optuna.trial import TrialState
from torch import nn

from headsearch import checkpoint
from headsearch.cohorts import Entrant, cohort_sizes, cohorts, planned
from headsearch.errors import UserError
from headsearch.ground import Ground
from headsearch.ledger import Ledger, Standing
from headsearch.pace import Pace
from headsearch.preparation import Prepared, settings_of
from headsearch.pruning import make_pruner
from headsearch.samplers import make_sampler
from headsearch.scores.collapse import collapse_reason
from headsearch.scores.rung import (
    BASE,
    PROBE_IMAGES,
    RungScores,
    Scores,
    mean_over_seeds,
    raw_pixels,
)
from headsearch.train import Health, Trainer, head_step_ms, train


@dataclass(frozen=True)
class Advanced:
    """Some steps of a cohort were done; the ledger holds the new losses.

    Attributes:
        step: steps of the cohort, under all seeds together.
    """

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


@dataclass
class _Live:
    """A head that still trains: its Optuna trial and its row."""

    trial: optuna.Trial
    standing: Standing


@dataclass(frozen=True)
class _Replica:
    """A cohort's training under one seed."""

    ground: Ground
    trainer: Trainer

    @property
    def seed(self) -> int:
        return self.ground.config.seed


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
        settings = settings_of(prepared, self.run_directory)
        if config.storage is not None:
            checkpoint.check_storage(config.storage, settings["study_name"])
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
            prepared.steps * config.seeds,
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
        except Exception:
            status = "failed"
            raise
        finally:
            self._save(status)

    def _train_cohort(self, cohort: int, entrants: list[Entrant]) -> Iterator[Event]:
        """Trains one cohort from the base's first weights through all rungs, under every seed.

        At each rung the seeds catch up with one another: the pruner decides by their mean.
        """
        seeds = range(self.config.seed, self.config.seed + self.config.seeds)
        grounds = [self.prepared.under(seed) for seed in seeds]
        replicas = [_Replica(ground, self._new_trainer(ground)) for ground in grounds]
        live = {}
        for entrant in entrants:
            standing = self.ledger.enter(entrant.candidate, cohort, self._attach(replicas, entrant))
            live[entrant.candidate.name] = _Live(entrant.trial, standing)
        steps = 0
        for rung in range(self.config.rungs + 1):
            last = self.prepared.rung_step(rung)
            for replica in replicas:
                for taken in self._advance(replica, rung, replicas, live):
                    steps += taken
                    yield Advanced(cohort, steps, self.pace, self.ledger)
            scores = self._score(replicas, rung, last, live)
            self._decide(replicas, rung, live)
            self._save("running")
            yield Scored(cohort, rung, last, scores, self.pace, self.ledger)
            if not live:
                return

    def _advance(
        self, replica: _Replica, rung: int, replicas: list[_Replica], live: dict[str, _Live]
    ) -> Iterator[int]:
        """Trains a cohort under one seed up to a rung; yields the steps taken, now and then."""
        ground = replica.ground
        first, last = ground.rung_step(rung - 1), ground.rung_step(rung)
        self.pace.start()
        for progress in train(replica.trainer, ground.data.train, ground.config, first, last):
            taken, first = progress.step - first, progress.step
            self.pace.trained(taken)
            self._note_cost(taken, live)
            self._note_health(progress.health, replica, replicas, live)
            yield taken
            self.pace.start()

    def _new_trainer(self, ground: Ground) -> Trainer:
        """A base that depends on the seed alone: every cohort starts from the same weights."""
        return ground.new_trainer(self.config.coupling)

    def _attach(self, replicas: list[_Replica], entrant: Entrant) -> float:
        """Attaches an entrant's head; returns what a step of it takes on its own, in ms."""
        prepared, candidate = self.prepared, entrant.candidate
        dim, grid = prepared.plan.stages[candidate.place]

        def build() -> nn.Module:
            return candidate.build(dim, grid)

        for replica in replicas:
            replica.trainer.attach(candidate.name, build, dim, candidate.place)
        features = torch.zeros(2 * self.config.batch_size, dim, *grid, device=prepared.device)
        return head_step_ms(build, features, autocast=prepared.autocast)

    def _score(
        self, replicas: list[_Replica], rung: int, step: int, live: dict[str, _Live]
    ) -> RungScores:
        """Scores base and heads, sets collapsed heads aside, reports the others to Optuna.

        Returns:
            The means over seeds.
        """
        self.pace.start()
        by_seed = {
            replica.seed: self.prepared.scores(replica.trainer.teacher.network)
            for replica in replicas
        }
        scores = mean_over_seeds(list(by_seed.values()))
        self.facts["dominant_share"] = scores.dominant_share
        if rung == 0:
            self._note_baseline("untrained", scores.base)
        for name, head in list(live.items()):
            standing, found = head.standing, []
            for seed, under in by_seed.items():
                found.append(under.heads[name].by(self.prepared.rank_by))
                self.ledger.record_seed(standing, seed, rung, step, under, found[-1])
            self.ledger.record(standing, rung, step, step * self.config.batch_size, scores)
            standing.score = fmean(found)
            collapses = (self._collapse(name, under, standing) for under in by_seed.values())
            reason = next(filter(None, collapses), None)
            if rung and reason is not None:
                self._leave(replicas, live, name, "collapsed", TrialState.FAIL, reason)
            else:
                head.trial.report(standing.score, rung)
        self.pace.scored()
        return scores

    def _collapse(self, name: str, scores: RungScores, standing: Standing) -> str | None:
        """Why a head counts as collapsed under a seed, None if it does not."""
        head, base = scores.heads[name], scores.base
        use = head.prototype_use
        return collapse_reason(
            head.effective_rank,
            self.prepared.plan.stages[standing.candidate.place].dim,
            use.of_mean if use else None,
            use.prototypes if use else None,
            images=len(self.prepared.data.queries),
            base_rank=base.effective_rank,
            image_entropy=use.of_images if use else None,
            base_information=base.prototype_use.information if base.prototype_use else None,
        )

    def _decide(self, replicas: list[_Replica], rung: int, live: dict[str, _Live]) -> None:
        """Lets the pruner decide at a rung; after the last one, every head is complete."""
        if rung == self.config.rungs:
            for name in list(live):
                self._leave(replicas, live, name, "complete", TrialState.COMPLETE, "")
        elif rung > 0:
            # All have reported, and all are asked before any is told: no order can matter.
            pruned = [name for name, head in live.items() if head.trial.should_prune()]
            contest = sum(not head.standing.candidate.control for head in live.values())
            stay = contest - len(pruned)
            for name in pruned:
                reason = (
                    f"not among the best {stay} of {contest} at rung {rung}"
                    if self.config.pruner == "rung"
                    else f"pruned by {self.config.pruner} at rung {rung}"
                )
                self._leave(replicas, live, name, "pruned", TrialState.PRUNED, reason)

    def _leave(
        self,
        replicas: list[_Replica],
        live: dict[str, _Live],
        name: str,
        state: str,
        trial_state: TrialState,
        reason: str,
    ) -> None:
        """Ends a head's training: in the networks, in Optuna and in the tables."""
        head = live.pop(name)
        for replica in replicas:
            replica.trainer.detach(name)
        head.standing.state, head.standing.reason = state, reason
        row = head.standing.row()
        for key in ("discrepancy", "head_knn", "head_linear", "reason"):
            if row[key] == row[key] and row[key] != "":
                head.trial.set_user_attr(key, row[key])
        value = head.standing.score if trial_state == TrialState.COMPLETE else None
        self.study.tell(head.trial, value, trial_state)

    def _note_health(
        self, health: Health, replica: _Replica, replicas: list[_Replica], live: dict[str, _Live]
    ) -> None:
        """Notes the losses; sets aside, under all seeds, heads that were not finite under one.

        Raises:
            UserError: the base itself diverged; its heads cannot go on either.
        """
        for name, head in live.items():
            head.standing.losses[replica.seed] = health.owners[name].loss
        diverged = [name for name in live if not health.owners[name].finite]
        base_diverged = not health.base_sound or not (diverged or health.owners[BASE].finite)
        for name in list(live) if base_diverged else diverged:
            reason = "the base diverged" if base_diverged else "loss or gradient not finite"
            self._leave(replicas, live, name, "failed", TrialState.FAIL, reason)
        if base_diverged:
            raise UserError(
                f"the base diverged: its features or gradients are not finite; try a lower --lr "
                f"than {self.config.lr:g}"
            )

    def _note_cost(self, steps: int, live: dict[str, _Live]) -> None:
        """Adds up what training cost, in units of the base's own training of the same length."""
        whole = self.prepared.plan.gflops
        heads = sum(head.standing.candidate.gflops for head in live.values()) / whole
        self.facts["cost_base_equivalents"] += (1 + heads) * steps / self.prepared.steps
        self.facts["solo_equivalents"] = self.config.seeds * sum(
            1 + standing.candidate.gflops / whole for standing in self.ledger.standings.values()
        )

    def _note_baseline(self, name: str, scores: Scores) -> None:
        if scores.report is not None:
            self.facts["baselines"][f"{name}_knn"] = scores.report.knn
            self.facts["baselines"][f"{name}_linear"] = scores.report.linear

    def _save(self, status: str) -> None:
        """Writes the tables and the facts as they are now."""
        self.facts.update(status=status, **self.pace.facts())
        self.facts["baselines"].update(self.ledger.base_beside_the_first())
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
        "seeds": prepared.config.seeds,
        "steps": prepared.steps,
        "space_size": prepared.space.size,
        "excluded": len(prepared.listing.excluded) if prepared.listing is not None else None,
        "cost_base_equivalents": 0.0,
        "solo_equivalents": 0.0,
    }
