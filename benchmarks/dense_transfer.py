"""Does the head that helps classification help segmentation and detection too?

    python benchmarks/dense_transfer.py --data cifar10/train.tar --eval-data cifar10/val.tar \\
        --dense dense/coco_small dense/camvid --out results/dense --work runs/

One search over the heads of `dense_transfer.yaml`, without pruning, on a ViT with 8×8 tokens. Its
heads are ranked three times by the scores that choose: by accuracy, by segmentation and by
detection, the last two on the first dense set. The first two heads of each ranking, and the
published convolutional head, then pretrain the base alone, as `headsearch verify` does, with two
seeds; each base is scored on all dense sets. Writes, as each part ends:

    heads.csv    a row a head: its scores in the search, and its rank in each ranking
    solo.csv     a row a solo run: accuracy and dense scores of the base
    summary.txt  τ between the rankings, gains over the base alone

Runs are kept in --work: started again, the benchmark resumes what was interrupted and continues
with what is missing.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import headsearch
from headsearch.config.input_shape import InputShape
from headsearch.config.settings import RunConfig, resolve
from headsearch.data.dense import DenseSettings, open_dense
from headsearch.evaluation.dense import DenseScorer
from headsearch.evaluation.other_data_rows import rows_of
from headsearch.evaluation.proxies.grouped_scores import standard_error
from headsearch.models.bases import read_weights
from headsearch.models.network import BASE as THE_BASE
from headsearch.models.network import Network
from headsearch.report.statistics.gains import gains
from headsearch.report.statistics.rank_correlation import correlation
from headsearch.runs.other_data import OTHER_DATA_RANKINGS
from headsearch.runs.other_data_tables import WITHOUT
from headsearch.runs.tables import NO_HEAD, write_table
from headsearch.training.base_plan import named_base, plan_for
from headsearch.training.dense import IMAGES_CPU
from headsearch.training.inputs import NO_INPUTS

SPACE = Path(__file__).with_suffix(".yaml")
PUBLISHED = "convnext"
"""The family whose head helps segmentation in the publication (arXiv 2310.05108)."""
BASE = {
    "base": "vit_tiny_patch16_224",
    "base_args": "depth=4,embed_dim=64,num_heads=2,class_token=False,global_pool=avg",
    "patch_size": 4,
}
TRAINING = {
    "objective": "simclr", "batch_size": 64, "lr": 1e-3, "precision": "float32", "device": "cpu",
    "threads": 1,
}  # fmt: skip
SCORES = {"eval_images": 1000, "bank_images": 2000, "data_seed": 0}
SEARCH = {"coupling": "observe", "rungs": 1, "pruner": "none", "trials": 64, "cohort": 64}
RANKINGS = {
    "accuracy": ("choose_knn", "choose_linear"),
    "segmentation": OTHER_DATA_RANKINGS["segmentation"],
    "detection": OTHER_DATA_RANKINGS["detection"],
}
"""The scores of a head whose mean ranks it."""
FIRST = 2
"""So many heads of each ranking are verified."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--eval-data", required=True)
    parser.add_argument("--dense", type=Path, nargs="+", required=True, help="the first one ranks")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    settings = {
        **BASE, **TRAINING, **SCORES, "data": arguments.data, "eval_data": arguments.eval_data,
        "images": arguments.images, "epochs": arguments.epochs,
    }  # fmt: skip
    heads = searched(arguments.work / "search", settings, arguments.dense[0])
    write_table(arguments.out / "heads.csv", heads)
    summarise(arguments.out, heads, pd.DataFrame())
    scorers = {place.name: scorer(place, resolve(settings)) for place in arguments.dense}
    table = arguments.out / "solo.csv"
    rows = pd.read_csv(table).to_dict("records") if table.exists() else []
    done = {(row["candidate"], row["seed"]) for row in rows}
    # All heads under one seed before the next: what is stopped early is complete for a seed.
    for seed, head in itertools.product(arguments.seeds, [NO_HEAD, *to_verify(heads)]):
        if (head, seed) in done:
            continue
        rows.append(
            solo(arguments.work / f"{head}-{seed}", head, {**settings, "seed": seed}, scorers)
        )
        write_table(table, pd.DataFrame(rows))
        summarise(arguments.out, heads, pd.DataFrame(rows))
        print(f"{len(rows)}: {head}, seed {seed}", flush=True)


def searched(directory: Path, settings: dict[str, Any], dense: Path) -> pd.DataFrame:
    """Runs or resumes the search; the scores of its heads that choose, and their ranks."""
    if (directory / "config.yaml").exists():
        result = headsearch.load(directory)
        if not (result.ranking["state"] == "complete").all():
            result = headsearch.resume(directory, progress=False)
    else:
        result = headsearch.search(
            space=SPACE, dense_data=str(dense), rank_by="accuracy", out=directory, progress=False,
            **settings, **SEARCH,
        )  # fmt: skip
    scores = result.run.scores
    heads = scores[scores["rung"] == scores["rung"].max()].merge(
        result.ranking[["candidate", "family", "params_m"]], on="candidate"
    )
    ranks = {
        f"rank_{name}": heads[list(columns)].mean(axis=1).rank(ascending=False).astype(int)
        for name, columns in RANKINGS.items()
    }
    kept = [column for columns in RANKINGS.values() for column in columns]
    return heads[["candidate", "family", "params_m", *kept, "discrepancy"]].assign(**ranks)


def to_verify(heads: pd.DataFrame) -> list[str]:
    """The first heads of each ranking, and the published one."""
    chosen = (heads[[f"rank_{name}" for name in RANKINGS]] <= FIRST).any(axis=1)
    return list(heads.loc[chosen | (heads["family"] == PUBLISHED), "candidate"])


def scorer(place: Path, config: RunConfig) -> DenseScorer:
    """The dense proxies of a data set, as runs use them."""
    train, evaluation = IMAGES_CPU
    size = config.image_size or 32
    settings = DenseSettings(size, train_images=train, evaluation_images=evaluation)
    return DenseScorer(open_dense(str(place), settings), torch.device("cpu"), 128)


def solo(
    directory: Path, head: str, settings: dict[str, Any], scorers: dict[str, DenseScorer]
) -> dict[str, Any]:
    """The scores of the base after a solo run, which is resumed if it was begun."""
    ended = directory / "pretrain.csv"
    weights = directory / "base.safetensors"
    if (directory / "config.yaml").exists() and not _complete(ended):
        headsearch.resume_pretraining(directory, progress=False)
    elif not ended.exists():
        headsearch.pretrain(head=head, rungs=1, out=directory, progress=False, **settings)
    last = pd.read_csv(ended).iloc[-1]
    row = {
        "candidate": head, "seed": settings["seed"], "step": last["step"],
        "accuracy": (last["base_knn"] + last["base_linear"]) / 2,
    }  # fmt: skip
    network = trained(weights, resolve(settings))
    for data, each in scorers.items():
        scores = each.of_network(network, [], autocast=False)[THE_BASE]
        for line in rows_of(head, "base", scores):
            row[f"{data}/{line['score']}"] = line["value"]
            row |= {f"{data}/{line['score']}/{name}": line[name] for name in WITHOUT}
    return row


def _complete(table: Path) -> bool:
    return table.exists() and pd.read_csv(table)["rung"].max() == 1


def trained(weights: Path, config: RunConfig) -> Network:
    """The base with the weights of a solo run."""
    arguments, _ = named_base(config)
    plan = plan_for(
        config, NO_INPUTS, InputShape.square(config.image_size or 32), arguments,
        read_weights(weights, None), accelerator=False,
    )  # fmt: skip
    return Network(plan.build(0.0), torch.nn.Identity(), "observe").eval()


def summarise(out: Path, heads: pd.DataFrame, solos: pd.DataFrame) -> None:
    """Writes summary.txt."""
    lines = ["Rankings of the search", "", *_rankings(heads), "", *_agreement(heads)]
    if len(solos):
        lines += ["", "Solo runs: gains over the base alone, in points", "", *_gains(solos)]
    (out / "summary.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rankings(heads: pd.DataFrame) -> Iterator[str]:
    for name in RANKINGS:
        ordered = heads.sort_values(f"rank_{name}")
        score = ordered[list(RANKINGS[name])].mean(axis=1)
        each = zip(ordered["candidate"], score, strict=True)
        yield f"{name}: " + ", ".join(f"{head} {100 * value:.1f}" for head, value in each)


def _agreement(heads: pd.DataFrame) -> Iterator[str]:
    """Kendall's τ between each two rankings, with the interval of Bonett and Wright."""
    for one, other in itertools.combinations(RANKINGS, 2):
        x, y = (heads[list(RANKINGS[name])].mean(axis=1).to_numpy() for name in (one, other))
        found = correlation(x, y)
        if found is not None:
            tau = found.kendall
            yield (
                f"τ of {one} and {other}: {tau.value:.2f} [{tau.low:.2f}, {tau.high:.2f}], "
                f"p = {found.p:.2f}, {found.number} heads"
            )


def _gains(solos: pd.DataFrame) -> Iterator[str]:
    """Gains with their simultaneous 95 % interval over seeds, and standard error over images."""
    shared = set(solos.loc[solos["candidate"] == NO_HEAD, "seed"])
    solos = solos[solos["seed"].isin(shared)]
    if solos["candidate"].nunique() < 2:
        return
    for task, columns in _tasks(solos).items():
        values = solos[columns].mean(axis=1)
        alone = values[solos["candidate"] == NO_HEAD].mean()
        found = gains(solos.assign(value=values), "value", NO_HEAD)
        yield f"{task}: the base alone {100 * alone:.1f}"
        for head, gain in sorted(found.items(), key=lambda item: -item[1].value):
            over_seeds = "" if math.isnan(gain.low) else (
                f" [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
            )  # fmt: skip
            over_images = _error(solos, columns, head)
            images = "" if math.isnan(over_images) else f", ± {100 * over_images:.1f} over images"
            yield f"  {head} {100 * gain.value:+.1f}{over_seeds}{images} ({gain.runs} runs)"


def _tasks(solos: pd.DataFrame) -> dict[str, list[str]]:
    """The columns whose mean is the score of a task on a data set."""
    found = {"accuracy": ["accuracy"]}
    for data in dict.fromkeys(c.split("/")[0] for c in solos.columns if "/" in c):
        for task, scores in OTHER_DATA_RANKINGS.items():
            columns = [f"{data}/{score}" for score in scores]
            if set(columns) <= set(solos.columns):
                found[f"{task} on {data}"] = columns
    return found


def _error(solos: pd.DataFrame, columns: Sequence[str], head: str) -> float:
    """The jackknife's error of a gain over contiguous groups of images, paired; NaN if unknown."""
    if f"{columns[0]}/{WITHOUT[0]}" not in solos.columns:
        return math.nan
    without = []
    for group in WITHOUT:
        value = solos[[f"{column}/{group}" for column in columns]].mean(axis=1)
        of_head, alone = (value[solos["candidate"] == name].mean() for name in (head, NO_HEAD))
        without.append(of_head - alone)
    return standard_error(without)


if __name__ == "__main__":
    main()
