"""Samplers: the Optuna samplers that can propose a whole cohort from a conditional search space.

They are used for spaces that are too large to enumerate. All candidates of a cohort (those that
train together) are proposed before the result of any of them is known, and the space is
conditional: a family has a kernel parameter only if it uses one. Optuna does not store a sampler's
random state, so each trial gets a new sampler with a seed of its own, and a resumed search proposes
the same candidates.
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
"""The number of finished candidates from which TPE uses its model; random sampling until then."""
POPULATION = 12
"""Size of a generation of NSGA-II: about one cohort. Optuna's default, 50, is more candidates than
most searches train in total."""


@dataclass(frozen=True)
class SamplerChoice:
    """An entry of `SAMPLERS`: a sampler that a run can select by name.

    Attributes:
        name: the key in `SAMPLERS`.
        help: one line for the user.
        make: makes the sampler from a seed.
        one_sequence: whether all trials are points of one sequence, so that they need the same
            seed. The storage holds the position in the sequence.
    """

    name: str
    help: str
    make: Callable[[int], BaseSampler]
    one_sequence: bool = False


# Tried on Optuna 5.0 with 3 cohorts of 12, each proposed at once, and left out:
# - GP: 5 of 12 candidates were distinct, since it ignores running trials.
# - CMA-ES: needs another package, and has no categorical parameters.
# - Grid and brute force: they raise from `tell` when exhausted, and small spaces are enumerated
#   without a sampler.
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
            "independent draws: an unbiased sample of the space",
            lambda seed: optuna.samplers.RandomSampler(seed=seed),
        ),
        SamplerChoice(
            "qmc",
            "a scrambled Sobol sequence over parameters that all families share, others at random",
            lambda seed: optuna.samplers.QMCSampler(
                scramble=True, seed=seed, warn_independent_sampling=False
            ),
            one_sequence=True,
        ),
        SamplerChoice(
            "nsgaii",
            f"a genetic algorithm with {POPULATION} candidates per generation",
            lambda seed: optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed),
        ),
    )
}


def make_sampler(name: str, seed: int, trial: int = 0) -> BaseSampler:
    """Makes the sampler of this name for one trial.

    Args:
        name: a key of `SAMPLERS`.
        seed: the seed of the run.
        trial: the number of the trial that the sampler will propose.

    Raises:
        UserError: if no sampler has this name.
    """
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        choice = SAMPLERS[name]
        trial_seed = seed if choice.one_sequence else seed_for(seed, "sampler", trial) % 2**32
        return choice.make(trial_seed)
