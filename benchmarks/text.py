"""Which heads does a search choose for a small language model, and do they help it?

    python benchmarks/text.py --domains domains --out results/text --work runs/

`domains` holds `pretrain_text`, `clinc150`, `banking77` and `sts_captions`. A small BERT is
pretrained on the sentences of `pretrain_text` and of clinc150's training set. One search over the
heads of `sequence.yaml`, without pruning, is scored on the intents of clinc150 and, as further
tasks, on the intents of banking77 and on two sets of pairs of captions (Spearman's ρ). Its first
heads, the control `own` and no head then pretrain the base alone, scored in the same way. Writes,
as each part ends:

    heads.csv    the ranking of the search
    rungs.csv    its scores at every rung; discrepancy_accuracy.svg draws them
    tasks.csv    the scores of base, heads and baselines (`raw` is TF-IDF) in each further task
    solo.csv     a row a solo run and score; `untrained` and `raw` are baselines
    summary.txt  gains over the base alone, with simultaneous 95 % intervals over seeds

Runs are kept in --work: started again, the benchmark continues with what is missing.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

import headsearch
from headsearch.report.statistics.gains import gains
from headsearch.runs.tables import NO_HEAD, write_table

BASE = {
    "base": "hf:bert-base-uncased",
    "base_args": "num_hidden_layers=3,hidden_size=128,num_attention_heads=4,intermediate_size=512",
    "domain": "text",
    "text_tokens": 32,
}
TRAINING = {
    "objective": "simclr", "images": 12_800, "epochs": 1, "batch_size": 128, "lr": 1e-3,
    "device": "cpu", "threads": 1,
}  # fmt: skip
SCORES = {"eval_images": 2000, "bank_images": 3000, "probe_classes": 0, "data_seed": 0}
SEARCH = {"coupling": "observe", "rungs": 2, "pruner": "none", "trials": 64, "cohort": 64}
OWN, UNTRAINED, RAW = "own-d2", "untrained", "raw"
PROXIES = ("knn", "linear")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--domains", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--top", type=int, default=2, help="heads that pretrain the base alone")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--precision", default="auto")
    arguments = parser.parse_args()
    for folder in (arguments.out, arguments.work):
        folder.mkdir(parents=True, exist_ok=True)
    domains, out = arguments.domains, arguments.out
    settings = {
        **BASE, **TRAINING, **SCORES, "precision": arguments.precision,
        "data": str(sentences(domains, arguments.work / "sentences.txt")),
        "eval_data": pair_of(domains / "clinc150"),
        "tasks": f"banking77={pair_of(domains / 'banking77')};"
        f"captions_2014={domains / 'sts_captions' / 'train.csv'};"
        f"captions_2015={domains / 'sts_captions' / 'test.csv'}",
    }  # fmt: skip
    run = arguments.work / "search"
    search = searched(run, settings)
    write_table(out / "heads.csv", search.ranking)
    for file in ("rungs.csv", "tasks.csv", "plots/discrepancy_accuracy.svg"):
        shutil.copy(run / file, out / Path(file).name)
    first = [name for name in search.ranking["candidate"] if name not in (OWN, "identity")]
    rows = list(baselines(search))
    for seed, head in itertools.product(arguments.seeds, [NO_HEAD, *first[: arguments.top], OWN]):
        folder = arguments.work / f"{head}-{seed}"
        pretrained(folder, run, head, seed)
        rows += [{"candidate": head, "seed": seed, **row} for row in scores(folder)]
        write_table(out / "solo.csv", pd.DataFrame(rows))
        print(f"{head}, seed {seed}", flush=True)
    text = "\n".join(summary(pd.DataFrame(rows)))
    (out / "summary.txt").write_text(text + "\n", encoding="utf-8")


def sentences(domains: Path, file: Path) -> Path:
    """A file of the sentences to train on, written if it is missing."""
    if not file.exists():
        lines = (domains / "pretrain_text" / "sentences.txt").read_text("utf-8").splitlines()
        with (domains / "clinc150" / "train.csv").open(encoding="utf-8", newline="") as rows:
            lines += [" ".join(row["text"].split()) for row in csv.DictReader(rows)]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def pair_of(folder: Path) -> str:
    """Bank and queries of a set of intents, as --eval-data names them."""
    return f"{folder / 'train.csv'},{folder / 'test.csv'}"


def searched(run: Path, settings: dict[str, Any]) -> headsearch.Result:
    """Runs the search, or goes on with it."""
    if not (run / "config.yaml").exists():
        return headsearch.search(out=run, progress=False, **settings, **SEARCH)
    return headsearch.resume(run, progress=False)


def pretrained(folder: Path, run: Path, head: str, seed: int) -> None:
    """Pretrains the base alone with a head, or goes on with it, unless that is done."""
    ended = folder / "pretrain.csv"
    if ended.exists() and pd.read_csv(ended)["rung"].max() == 1:
        return
    if (folder / "config.yaml").exists():
        headsearch.resume_pretraining(folder, progress=False)
    else:
        headsearch.pretrain(
            run=run, head=head, seed=seed, data_seed=0, rungs=1, out=folder, progress=False
        )


def scores(folder: Path) -> Iterator[dict[str, Any]]:
    """The scores of the base of a solo run, each on the half of the labels that is reported on."""
    last = pd.read_csv(folder / "pretrain.csv").iloc[-1]
    for proxy in PROXIES:
        yield {"task": "clinc150", "score": proxy, "value": last[f"base_{proxy}"]}
    tasks = pd.read_csv(folder / "tasks.csv", keep_default_na=False)
    yield from of_representation(tasks, "base")


def baselines(search: headsearch.Result) -> Iterator[dict[str, Any]]:
    """The scores of TF-IDF and of the untrained base of the search, under its seed."""
    for name in (RAW, UNTRAINED):
        about = {"candidate": name, "seed": 0}
        for proxy in PROXIES:
            value = search.run.facts["baselines"][f"{name}_{proxy}"]
            yield {**about, "task": "clinc150", "score": proxy, "value": value}
        for row in of_representation(search.tasks, name):
            yield {**about, **row}


def of_representation(tasks: pd.DataFrame, name: str) -> Iterator[dict[str, Any]]:
    """The rows of a representation in tasks.csv, the mean over tasks left out."""
    rows = tasks[(tasks["representation"] == name) & (tasks["task"] != "")]
    for row in rows.to_dict("records"):
        score = str(row["score"]).removeprefix("task_")
        yield {"task": row["task"], "score": score, "value": float(row["value"])}


def summary(rows: pd.DataFrame) -> Iterator[str]:
    """Each task's scores, and the gains over no head, in points."""
    for (task, score), part in rows.groupby(["task", "score"], sort=False):
        means = 100 * part.groupby("candidate", sort=False)["value"].mean()
        known = [name for name in (RAW, UNTRAINED, NO_HEAD) if name in means]
        yield f"{task}, {score}: " + ", ".join(f"{name} {means[name]:.1f}" for name in known)
        solos = part[~part["candidate"].isin([RAW, UNTRAINED])]
        if solos["candidate"].nunique() < 2:
            continue
        for head, gain in gains(solos, "value", NO_HEAD).items():
            low, high = 100 * gain.low, 100 * gain.high
            yield f"  {head} {100 * gain.value:+.1f} [{low:+.1f}, {high:+.1f}], {gain.runs} runs"


if __name__ == "__main__":
    main()
