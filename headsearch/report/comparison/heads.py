"""Which heads of several runs are the same, and their ranks side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import pandas as pd

from headsearch.report.comparison.runs import Compared

CODE = 8
"""Characters of the hash of a user's code that are shown."""


def names_of(runs: Sequence[Compared]) -> list[dict[str, str]]:
    """For each run, the name under which each of its candidates is compared.

    A candidate's name says all its parameters that are not at their default, so that the name
    identifies a head of headsearch's own families. Of a user's own family it also takes the hash of
    its code, which is added where two runs have different code under one name.
    """
    codes = [_codes(each) for each in runs]
    of_family: dict[str, set[str]] = defaultdict(set)
    for each, code in zip(runs, codes, strict=True):
        for row in each.ranking:
            of_family[row.family].add(code.get(row.family, ""))
    return [
        {
            row.candidate: row.candidate
            if len(of_family[row.family]) == 1
            else f"{row.candidate} ({_origin(code.get(row.family, ''))})"
            for row in each.ranking
        }
        for each, code in zip(runs, codes, strict=True)
    ]


def _codes(each: Compared) -> dict[str, str]:
    """The hash of the code of each family that a user defined."""
    content = each.run.config.get("space_content")
    families = content.get("families") if isinstance(content, Mapping) else None
    if not isinstance(families, Mapping):
        return {}
    return {
        str(name): str(entry["sha256"])
        for name, entry in families.items()
        if isinstance(entry, Mapping) and "sha256" in entry
    }


def _origin(code: str) -> str:
    return f"code {code[:CODE]}" if code else "built in"


def rankings(runs: Sequence[Compared], names: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """The heads of all runs, a row a head.

    Heads that all runs have come first, in the order of their mean rank; then those that fewer runs
    have. The mean rank is that among the heads that all runs have, because ranks among different
    heads have no meaningful mean.

    Returns:
        `head, family, control, runs` (the number of runs that have it), `mean_rank` (NaN if not all
        have it), and for each run, by its letter, `rank_A, score_A, state_A, rungs_A`.
    """
    rows: dict[str, dict[str, object]] = {}
    for each, named in zip(runs, names, strict=True):
        for row in each.ranking:
            head = rows.setdefault(
                named[row.candidate],
                {"head": named[row.candidate], "family": row.family, "control": row.control},
            )
            head |= {
                f"{column}_{each.letter}": getattr(row, column)
                for column in ("rank", "score", "state", "rungs")
            }
    table = pd.DataFrame(list(rows.values()))
    ranks = table[[f"rank_{each.letter}" for each in runs]].astype("Int64")
    table[ranks.columns] = ranks
    for each in runs:
        table[f"rungs_{each.letter}"] = table[f"rungs_{each.letter}"].astype("Int64")
    number = ranks.notna().sum(axis=1)
    among_common = ranks[number == len(runs)].rank()
    table.insert(3, "runs", number)
    table.insert(4, "mean_rank", among_common.mean(axis=1).reindex(table.index).astype(float))
    best = ranks.min(axis=1)
    order = table.assign(_best=best).sort_values(
        ["runs", "mean_rank", "_best", "head"], ascending=[False, True, True, True], kind="stable"
    )
    return order.drop(columns="_best").reset_index(drop=True)
