"""Which heads does a search choose for a small language model, and do they help it?

    python benchmarks/text.py --domains domains --out results/text --work runs/

`domains` holds `pretrain_text`, `clinc150`, `banking77` and `sts_captions`. A small BERT is
pretrained on the sentences of `pretrain_text` and of clinc150's training set. One search over the
heads of `sequence.yaml`, without pruning, is scored on clinc150. Its first heads, the control `own`
and no head then pretrain the base alone, and each base is scored on three tasks: intents of
clinc150, intents of banking77 (k-NN and linear probe), and the similarity of pairs of captions
(Spearman's ρ with the cosine). Writes, as each part ends:

    heads.csv    the ranking of the search
    rungs.csv    its scores at every rung; discrepancy_accuracy.svg draws them
    solo.csv     a row a base and a task; `untrained` and `raw` (TF-IDF) are baselines
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
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor

import headsearch
from headsearch.config.normalization import of as normalization_of
from headsearch.config.settings import resolve
from headsearch.data import Data, DataSettings, open_data
from headsearch.data.domains import DOMAINS
from headsearch.data.settings import TextSettings
from headsearch.data.text.tokens import Encoder, read_tokenizer, unpacked
from headsearch.evaluation.rung import raw_inputs, score_rung
from headsearch.evaluation.scores import Scores
from headsearch.models.bases import plan_text_base
from headsearch.models.network import Network
from headsearch.report.statistics.gains import gains
from headsearch.runs.tables import NO_HEAD, write_table
from headsearch.training.setup import first_student, prepare_training

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
INTENTS = ("clinc150", "banking77")
PAIRS = "sts_captions"
OWN, UNTRAINED, RAW = "own-d2", "untrained", "raw"


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
    torch.set_num_threads(1)
    settings = {
        **BASE, **TRAINING, **SCORES, "precision": arguments.precision,
        "data": str(sentences(arguments.domains, arguments.work / "sentences.txt")),
        "eval_data": pair_of(arguments.domains / "clinc150"),
    }  # fmt: skip
    run = arguments.work / "search"
    ranking = searched(run, settings)
    write_table(arguments.out / "heads.csv", ranking)
    for file in (run / "rungs.csv", run / "plots" / "discrepancy_accuracy.svg"):
        shutil.copy(file, arguments.out / file.name)
    first = [name for name in ranking["candidate"] if name not in (OWN, "identity")]
    heads = [NO_HEAD, *first[: arguments.top], OWN]
    table = arguments.out / "solo.csv"
    rows = pd.read_csv(table).to_dict("records") if table.exists() else []
    done = {(row["candidate"], row["seed"]) for row in rows}
    for seed, head in itertools.product(arguments.seeds, heads):
        folder = arguments.work / f"{head}-{seed}"
        pretrained(folder, run, head, seed)
        subjects = [(head, seed)]
        if head == NO_HEAD:
            subjects += [(UNTRAINED, seed), *([(RAW, seed)] if seed == arguments.seeds[0] else [])]
        for name, _ in subjects:
            if (name, seed) in done:
                continue
            found = list(scores(name, folder / "model", arguments.domains, settings, seed))
            rows += [{"candidate": name, "seed": seed, **row} for row in found]
            write_table(table, pd.DataFrame(rows))
            print(f"{name}, seed {seed}: {found}", flush=True)
    text = "\n".join(summary(pd.DataFrame(rows)))
    (arguments.out / "summary.txt").write_text(text + "\n", encoding="utf-8")


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


def searched(run: Path, settings: dict[str, Any]) -> pd.DataFrame:
    """Runs or resumes the search; its ranking."""
    if not (run / "config.yaml").exists():
        result = headsearch.search(out=run, progress=False, **settings, **SEARCH)
    elif (headsearch.load(run).ranking["state"] == "complete").all():
        result = headsearch.load(run)
    else:
        result = headsearch.resume(run, progress=False)
    return result.ranking


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


def scores(
    name: str, model: Path, domains: Path, settings: dict[str, Any], seed: int
) -> Iterator[dict[str, Any]]:
    """The scores of a base on each task; for `RAW` those of TF-IDF.

    Args:
        name: `UNTRAINED`, `RAW` or a candidate.
        model: the folder of a trained base; its tokenizer is used by all.
        domains: where the data lie.
        settings: of the runs, with which an untrained base is built.
        seed: of the run.
    """
    encoder = Encoder(read_tokenizer(model), BASE["text_tokens"])
    encoder.tokenizer.enable_truncation(encoder.length)
    if name == UNTRAINED:
        setup = prepare_training(resolve({**settings, "seed": seed}))
        network = first_student(setup.config, setup.plan, setup.objective, "observe")
    else:
        plan = plan_text_base(f"hf:{model}", encoder.shape)
        network = Network(plan.build(), torch.nn.Identity(), "observe")
    network.eval()
    for task in INTENTS:
        data = open_data(
            settings["data"], pair_of(domains / task),
            DataSettings(
                images=64, eval_images=4500, bank_images=9500, probe_classes=0, domain="text",
                text=TextSettings(tokens=encoder.length, folder=model),
            ),
        )  # fmt: skip
        of_base = raw_inputs(data) if name == RAW else scored(network, data)
        assert of_base.choose is not None
        assert of_base.report is not None
        for score in ("knn", "linear"):
            # Nothing is chosen by these scores, so both halves of the labels count.
            halves = (getattr(of_base.choose, score), getattr(of_base.report, score))
            yield {"task": task, "score": score, "value": sum(halves) / 2}
    for part in ("train", "test"):
        file = domains / PAIRS / f"{part}.csv"
        yield {"task": f"{PAIRS}/{part}", "score": "spearman",
               "value": of_pairs(file, encoder, None if name == RAW else network)}  # fmt: skip


def scored(network: Network, data: Data) -> Scores:
    """The scores of a base without heads."""
    return score_rung(
        network, data, measure="cka", batch_size=256, autocast=False, heads=[],
        summary=lambda base: base.pooled_BD, normalization=normalization_of([0.0], [1.0]),
    ).base  # fmt: skip


@torch.no_grad()
def of_pairs(file: Path, encoder: Encoder, network: Network | None) -> float:
    """Spearman's ρ of the cosine of sentence pairs with their scores; of TF-IDF without a base."""
    table = pd.read_csv(file)
    texts = [*table["sentence1"], *table["sentence2"]]
    packed = torch.stack([torch.from_numpy(encoder.packed(text)) for text in texts])
    if network is None:
        features = DOMAINS["text"].raw(packed.split(256), encoder.shape)
    else:
        parts: list[Tensor] = [network.base(unpacked(part)).pooled_BD for part in packed.split(256)]
        features = torch.cat(parts)
        features = features - features.mean(dim=0)  # the common part of all would hide the rest
    one, other = F.normalize(features, dim=1).chunk(2)
    return float(spearmanr((one * other).sum(dim=1), table["score"]).statistic)


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
