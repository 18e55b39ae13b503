"""What a comparison shows, and what it does not, as sentences."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import pandas as pd

from headsearch.report.columns import signed
from headsearch.report.comparison.pairs import Pair
from headsearch.report.comparison.runs import Compared
from headsearch.report.comparison.settings import IMAGES, SPACE, WEIGHTS, same_images
from headsearch.report.statistics.across_runs import FEWEST
from headsearch.report.statistics.ranking import last_rung
from headsearch.text import counted, listing

TOP = 3
"""A head is at the top if it is among so many first ones."""
NAMED = 6
"""Settings or heads that a sentence names at most."""
OF_THE_BASE = {
    "base", "base_args", "base_weights", WEIGHTS, "patch_size", "image_size", "pretrained",
}  # fmt: skip
"""Settings that make another base."""


def findings(
    runs: Sequence[Compared], names: Sequence[Mapping[str, str]], pairs: Sequence[Pair]
) -> Iterator[str]:
    """Which heads the runs agree on, in the order of importance. Controls cannot win."""
    contests = [[named[row.candidate] for row in each.contest]
                for each, named in zip(runs, names, strict=True)]  # fmt: skip
    yield _first(runs, contests)
    for each, named in zip(runs, names, strict=True):
        leader = each.ranking[0]
        if leader.control and leader.healthy:
            yield f"In {each.letter} the control {named[leader.candidate]} ranks before all heads."
    if all(len(contest) > TOP for contest in contests):
        top = [set(contest[:TOP]) for contest in contests]
        always = [name for name in contests[0] if all(name in heads for heads in top)]
        yield (
            f"Among the first {TOP} of {_all(runs)}: {listing(always)}."
            if always
            else f"No head is among the first {TOP} of {_all(runs)}."
        )
    yield _correlated(pairs)


def cautions(
    runs: Sequence[Compared], rankings: pd.DataFrame, settings: pd.DataFrame
) -> Iterator[str]:
    """Why the runs may not be comparable, the most serious first.

    Args:
        runs: the runs.
        rankings: `heads.rankings`.
        settings: `settings.differing`.
    """
    differ = {*settings.loc[settings["decides"], "setting"]}
    scores = _grouped(runs, lambda each: each.rank_by)
    if len(scores) > 1:
        yield (
            f"The runs rank by different scores: {_by_value(scores)}. Such scores cannot be "
            "compared directly, and an order may differ for this reason alone. The agreement on "
            "discrepancy and on accuracy stands beside it."
        )
    if "discrepancy" in differ:
        measures = _grouped(runs, lambda each: str(each.run.config.get("discrepancy", "cka")))
        yield f"Discrepancy is measured in different ways: {_by_value(measures)}."
    if differ & OF_THE_BASE:
        yield (
            "The bases differ: ranks can be compared, percentages cannot. The control own is the "
            "base's own kind of block, so that it is another head on each base."
        )
    yield from _images(runs)
    yield from _heads(runs, rankings, SPACE in differ)
    yield _alone_or_many(runs, differ)
    yield from _states(runs)
    yield from _versions(runs)


def _first(runs: Sequence[Compared], contests: Sequence[Sequence[str]]) -> str:
    """Which head is first in each run."""
    first: dict[str, list[str]] = defaultdict(list)
    for each, contest in zip(runs, contests, strict=True):
        first[contest[0] if contest else "no head"].append(each.letter)
    if len(first) == 1:
        return f"{next(iter(first))} ranks first in {_all(runs)}."
    return f"The first head is not the same: {_by_value(first)}."


def _correlated(pairs: Sequence[Pair]) -> str:
    """Whether the runs order the heads alike, by their scores."""
    known = [pair for pair in pairs if not math.isnan(pair.on["score"].tau.value)]
    few = len(pairs) - len(known)
    if not known:
        return (
            f"No rank correlation is given: no two runs have {counted(FEWEST, 'head')} in common "
            "that both scored after rung 0, controls aside."
        )
    if len(pairs) == 1:
        found = known[0].on["score"]
        low, high = found.tau.low, found.tau.high
        interval = "" if math.isnan(low) else f", 95% interval {signed(low)} to {signed(high)}"
        return (
            f"Kendall's τ between their scores is {signed(found.tau.value)} over "
            f"{counted(found.compared, 'head')}{interval}: {_verdict(low, high)}."
        )
    taus = [pair.on["score"].tau for pair in known]
    least, most = min(tau.value for tau in taus), max(tau.value for tau in taus)
    alike = sum(tau.low > 0 for tau in taus)
    opposed = sum(tau.high < 0 for tau in taus)
    number = counted(len(taus), "pair")
    which = f"none of {number} is" if not alike else f"{alike} of {number} {_are(alike)}"
    against = f", {opposed} in opposite ways" if opposed else ""
    missing = f" For {counted(few, 'pair')} there are too few heads in common." if few else ""
    return (
        f"Kendall's τ between the scores of two runs lies between {signed(least)} and "
        f"{signed(most)}; {which} shown to order the heads alike{against} (95% intervals).{missing}"
    )


def _verdict(low: float, high: float) -> str:
    if math.isnan(low):
        return "too few heads to show whether that is more than chance"
    if low > 0:
        return "they order the heads alike beyond chance"
    if high < 0:
        return "they order the heads in opposite ways beyond chance"
    return "it is not shown that they order the heads alike"


def _images(runs: Sequence[Compared]) -> Iterator[str]:
    groups = same_images(runs)
    if groups is None:
        without = [each.letter for each in runs if not each.run.config.get("data_fingerprint")]
        yield (
            f"No fingerprint of the images is recorded in {listing(without)}, so that the settings "
            "alone say whether the images are the same."
        )
        return
    alike: dict[int, list[str]] = defaultdict(list)
    for each, group in zip(runs, groups, strict=True):
        alike[group].append(each.letter)
    if len(alike) == 1:
        return
    shared = [f"in {listing(letters)}" for letters in alike.values() if len(letters) > 1]
    which = f"the images are the same {listing(shared)} alone" if shared else (
        "no two runs have the same images")  # fmt: skip
    drawn = "; the seed draws them, unless --data-seed is given" if _drawn(runs) else ""
    yield f"By their fingerprints, {which}{drawn}."


def _drawn(runs: Sequence[Compared]) -> bool:
    """Whether different seeds drew the images of the runs."""
    configs = [each.run.config for each in runs]
    by_seed = all(each.get("data_seed") is None for each in configs)
    return by_seed and len({each.get("seed") for each in configs}) > 1


def _heads(runs: Sequence[Compared], rankings: pd.DataFrame, spaces: bool) -> Iterator[str]:
    """Heads that only some of the runs have."""
    some = rankings.loc[rankings["runs"] < len(runs), "head"]
    why = "The spaces differ" if spaces else "The runs tried different heads"
    if len(some):
        number = counted(len(rankings) - len(some), "head")
        yield f"{why}: {number} of {len(rankings)} {_are(len(rankings) - len(some))} in all runs."
    elif spaces:
        yield f"{why}, but all runs ranked the same heads."


def _alone_or_many(runs: Sequence[Compared], differ: set[str]) -> str:
    """Where a different order may come from."""
    if not differ:
        return "No setting that decides the results differs."
    if differ == {"seed"} or (differ == {"seed", IMAGES} and _drawn(runs)):
        images = ", which also draws the images" if IMAGES in differ else ""
        return (
            f"The runs differ in the seed alone{images}: where they disagree, the order lies "
            "within the noise of the seed."
        )
    if len(differ) == 1:
        return f"Of what decides the results, {next(iter(differ))} alone differs."
    shown = sorted(differ)[:NAMED]
    if len(differ) > NAMED:
        shown.append(f"{len(differ) - NAMED} more")
    return (
        f"{len(differ)} settings that decide the results differ ({listing(shown)}): a different "
        "order may come from any of them."
    )


def _states(runs: Sequence[Compared]) -> Iterator[str]:
    for each in runs:
        if last_rung(each.run) == 0:
            yield (
                f"{each.letter} has scored the untrained network alone (rung 0): its ranks say "
                "nothing about training yet."
            )
        elif not each.complete:
            yield f"{each.letter} is not complete ({each.state}): its ranks are provisional."
    unknown = [each.letter for each in runs if "status" not in each.run.facts]
    if unknown:
        yield (
            f"The study of {listing(unknown)} could not be read, so that it is unknown how "
            f"{'the run' if len(unknown) == 1 else 'these runs'} ended."
        )
    older = [each.letter for each in runs if each.run.scores.empty]
    if older:
        yield (
            f"No scores.csv in {listing(older)}, as in runs of older versions: at earlier rungs "
            "the score is computed with the accuracies on the reporting labels."
        )


def _versions(runs: Sequence[Compared]) -> Iterator[str]:
    made_by = _grouped(
        runs, lambda each: str((each.run.config.get("versions") or {}).get("headsearch", "unknown"))
    )
    if len(made_by) > 1:
        yield f"The versions of headsearch differ: {_by_value(made_by)}."


def _grouped(runs: Sequence[Compared], key: Callable[[Compared], str]) -> dict[str, list[str]]:
    """The letters of the runs by a property."""
    groups: dict[str, list[str]] = defaultdict(list)
    for each in runs:
        groups[key(each)].append(each.letter)
    return groups


def _by_value(groups: Mapping[str, list[str]]) -> str:
    """'x in A and B, y in C'."""
    return ", ".join(f"{value} in {listing(letters)}" for value, letters in groups.items())


def _all(runs: Sequence[Compared]) -> str:
    return "both runs" if len(runs) == 2 else f"all {len(runs)} runs"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"
