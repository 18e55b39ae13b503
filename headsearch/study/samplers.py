"""Where candidates of a large space come from: Optuna's samplers that serve a cohort.

A cohort is asked for at once, before any of it is told, from a space with conditional parameters
(a kernel only where the family has one). A sampler's random state is not in the storage, so one is
made for each trial.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import optuna
from optuna.samplers import BaseSampler

from headsearch.errors import unknown
from headsearch.seeding import seed_for

STARTUP = 10
"""Finished candidates before TPE begins to model; random until then."""
POPULATION = 12
"""A generation of NSGA-II: about a cohort. Optuna's 50 are more than most searches ever train."""


@dataclass(frozen=True)
class SamplerChoice:
    """A sampler that a run can name: its help is one line for the user, `make` takes the seed."""

    name: str
    help: str
    make: Callable[[int], BaseSampler]
    one_sequence: bool = False
    """Whether all trials are points of one sequence, whose place the storage holds."""


# Left out after trying them on Optuna 5.0 with 3 cohorts of 12, each asked for at once: GP (5 of 12
# distinct: it does not see running trials), CMA-ES (another package, and no categorical choices),
# grid and brute force (they raise from `tell` when exhausted; small spaces are enumerated anyway).
SAMPLERS: dict[str, SamplerChoice] = {
    entry.name: entry
    for entry in (
        SamplerChoice(
            "tpe",
            "learns from finished candidates which choices go together; random in the first cohort",
            lambda seed: optuna.samplers.TPESampler(
                n_startup_trials=STARTUP,
                multivariate=True,
                group=True,
                constant_liar=True,
                seed=seed,
            ),
        ),
        SamplerChoice(
            "random",
            "independent draws: the fairest picture of a space",
            lambda seed: optuna.samplers.RandomSampler(seed=seed),
        ),
        SamplerChoice(
            "qmc",
            "a scrambled Sobol sequence over what all families share, the rest drawn at random",
            lambda seed: optuna.samplers.QMCSampler(
                scramble=True, seed=seed, warn_independent_sampling=False
            ),
            one_sequence=True,
        ),
        SamplerChoice(
            "nsgaii",
            f"evolves the better candidates, {POPULATION} in a generation",
            lambda seed: optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed),
        ),
    )
}


def make_sampler(name: str, seed: int, trial: int = 0) -> BaseSampler:
    """The sampler of this name in `SAMPLERS`, seeded for the trial that it is to propose.

    Raises:
        UserError: no such sampler.
    """
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        choice = SAMPLERS[name]
        own = seed if choice.one_sequence else seed_for(seed, "sampler", trial) % 2**32
        return choice.make(own)
