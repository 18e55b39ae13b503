"""Which head helps a base that is pretrained on spoken digits, and what does the base learn?

    python benchmarks/speech.py --fsdd fsdd --out results/speech --work runs/speech

Two tasks of the Free Spoken Digit Dataset (3,000 clips of six speakers) with the same small ViT:

    digits    classes are the ten digits; the queries are of two speakers that are not trained on
    speakers  classes are the six speakers; the queries are other takes of the same speakers

A pilot without heads comes first: in which setting does the base learn most above its untrained
self, by the labels that choose? Then a search on each task, without pruning, `verify` of the first
heads of the search for digits, and `explain`. Writes, as each part ends:

    pilot.csv            a row for each setting of the pilot
    digits/, speakers/   ranking.csv, rungs.csv, report.md, some plots of each search
    digits/solo.csv      a row for each solo run
    gains.csv            what each head gains over no head, and over the base's own kind of block
    digits/explain/      what the base learned from its head: findings.csv, pictures

Runs are kept in --work: started again, the benchmark resumes what was interrupted and continues
with what is missing.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

import headsearch
from headsearch.report.statistics.gains import gains
from headsearch.runs.tables import NO_HEAD, write_table

HELD_OUT = ("theo", "yweweler")
"""The speakers that give the queries of `digits`: the last two by name, chosen before any run."""
QUERY_TAKES = 17
"""So many of the 50 takes of each digit and speaker give the queries of `speakers`."""

BASE: dict[str, Any] = {
    "base": "vit_tiny_patch16_224",
    "base_args": "depth=4,embed_dim=96,num_heads=3,class_token=False,global_pool=avg",
}
TRAINING: dict[str, Any] = {
    "batch_size": 64,
    "lr": 1e-3,
    "device": "cpu",
    "threads": 1,
    "images": 0,
}
SCORES: dict[str, Any] = {"eval_images": 1000, "bank_images": 1980, "data_seed": 0}
SEARCH: dict[str, Any] = {
    "space": "sequence.yaml",
    "rungs": 4,
    "pruner": "none",
    "trials": 64,
    "cohort": 64,
}
PILOT: dict[str, dict[str, Any]] = {
    "simclr-10": {"objective": "simclr", "epochs": 10},
    "simclr-30": {"objective": "simclr", "epochs": 30},
    "mocov3-30": {"objective": "mocov3", "epochs": 30},
    "simclr-30-patch4": {"objective": "simclr", "epochs": 30, "patch_size": 4},
    "simclr-15-patch4": {"objective": "simclr", "epochs": 15, "patch_size": 4},
}
"""The settings that are tried without heads; `patch_size` is in time steps, by default 2 here."""
PUBLISHED = (
    "config.yaml", "ranking.csv", "rungs.csv", "solo.csv", "report.md",
    "plots/discrepancy_accuracy.svg", "plots/scores_over_rungs.svg", "explain/findings.csv",
    "explain/change.svg", "explain/cues.svg",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fsdd", type=Path, required=True, help="a folder: *.tar, metadata.csv")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="where data and runs are kept")
    parser.add_argument("--setting", choices=PILOT, help="of the searches; none: only the pilot")
    parser.add_argument("--seeds", type=int, default=2, help="of the solo runs")
    parser.add_argument("--top", type=int, default=3, help="heads to verify")
    arguments = parser.parse_args()
    out, work = arguments.out, arguments.work
    out.mkdir(parents=True, exist_ok=True)
    make_data(arguments.fsdd, work / "data")
    pilot(out / "pilot.csv", work)
    if arguments.setting is None:
        return
    settings = PILOT[arguments.setting]
    publish(searched("digits", work, settings), out / "digits", work)
    digits = headsearch.verify(
        work / "search-digits", top=arguments.top, seeds=arguments.seeds, jobs=1, threads=1,
        device="cpu", progress=False,
    )  # fmt: skip
    publish(digits, out / "digits", work)
    write_table(out / "gains.csv", gains_table(digits))
    publish(searched("speakers", work, settings), out / "speakers", work)
    digits.explain(top=arguments.top, progress=False)
    publish(headsearch.load(digits.run_directory), out / "digits", work)


def make_data(fsdd: Path, folder: Path) -> None:
    """Writes train.tar and eval.tar of both tasks, in class folders."""
    with (fsdd / "metadata.csv").open(encoding="utf-8") as table:
        clips = list(csv.DictReader(table))
    sound = {
        name: content
        for archive in sorted({row["archive"] for row in clips})
        for name, content in _members(fsdd / archive)
    }
    for task, (label, is_query) in TASKS.items():
        for name, wanted in (("train", False), ("eval", True)):
            members = {
                f"{row[label]}/{Path(row['file']).name}": sound[row["file"]]
                for row in clips
                if is_query(row) == wanted
            }
            _write(folder / task / f"{name}.tar", members)


def _is_held_out(row: dict[str, str]) -> bool:
    return row["speaker"] in HELD_OUT


def _is_query_take(row: dict[str, str]) -> bool:
    """Files are named DIGIT_SPEAKER_TAKE.wav."""
    return int(Path(row["file"]).stem.rsplit("_", 1)[1]) < QUERY_TAKES


TASKS: dict[str, tuple[str, Callable[[dict[str, str]], bool]]] = {
    "digits": ("digit", _is_held_out),
    "speakers": ("speaker", _is_query_take),
}
"""The column of metadata.csv that is the class, and which clips are queries."""


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(archive, "r:") as tar:
        for member in tar:
            if content := tar.extractfile(member):
                yield member.name, content.read()


def _write(path: Path, members: dict[str, bytes]) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    begun = path.with_suffix(".begun")
    with tarfile.open(begun, "w") as tar:
        for name, content in sorted(members.items()):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    begun.rename(path)


def pilot(table: Path, work: Path) -> None:
    """Trains the base without a head in each setting, and writes its scores before and after."""
    rows = pd.read_csv(table).to_dict("records") if table.exists() else []
    done = {row["setting"] for row in rows}
    for name, settings in PILOT.items():
        if name in done:
            continue
        out = work / f"pilot-{name}"
        scores = out / "pretrain.csv"
        if not (out / "config.yaml").exists():
            headsearch.pretrain(
                head=NO_HEAD, rungs=2, progress=False, out=out, **data_of("digits", work),
                **BASE, **TRAINING, **SCORES, **settings,
            )  # fmt: skip
        elif not scores.exists() or pd.read_csv(scores)["rung"].max() < 2:
            headsearch.resume_pretraining(out, progress=False)
        measured = pd.read_csv(scores)
        untrained, last = measured.iloc[0], measured.iloc[-1]
        row = {"setting": name, "steps": int(last["step"])}
        for score in ("choose_knn", "choose_linear", "base_knn", "base_linear", "effective_rank"):
            row |= {f"untrained_{score}": untrained[score], score: last[score]}
        rows.append(row)
        write_table(table, pd.DataFrame(rows))
        print(row, flush=True)


def searched(task: str, work: Path, settings: dict[str, Any]) -> headsearch.Result:
    """Runs or resumes the search on a task."""
    directory = work / f"search-{task}"
    if (directory / "config.yaml").exists():
        return headsearch.resume(directory, progress=False)
    return headsearch.search(
        out=directory, progress=False, seed=0, **data_of(task, work), **BASE, **TRAINING, **SCORES,
        **SEARCH, **settings,
    )  # fmt: skip


def data_of(task: str, work: Path) -> dict[str, Any]:
    folder = work / "data" / task
    return {"data": str(folder / "train.tar"), "eval_data": str(folder / "eval.tar")}


def publish(result: headsearch.Result, out: Path, work: Path) -> None:
    """Copies the tables and some pictures of a run, with paths that start at `work`."""
    run = result.run_directory
    for name in PUBLISHED:
        if (run / name).exists():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run / name, out / name)
    for name in ("config.yaml", "report.md"):
        text = (out / name).read_text(encoding="utf-8").replace(f"{work.resolve()}/", "")
        text = PICTURE.sub(lambda found: _if_published(found, out), text)
        (out / name).write_text(text, encoding="utf-8")


PICTURE = re.compile(r"!\[[^]]*\]\(([^)]*)\)\n\n.*\n\n")
"""A picture in a report, with its caption."""


def _if_published(found: re.Match[str], out: Path) -> str:
    """The picture, as SVG; empty if it is not published."""
    link = found[1].replace(".png", ".svg")
    return found[0].replace(found[1], link) if (out / link).exists() else ""


def gains_table(result: headsearch.Result) -> pd.DataFrame:
    """The gains of all heads in k-NN, the linear probe, and the mean of both, on both halves.

    `reporting` is the half of the labels that no head was chosen by; the mean over both halves has
    less noise over clips, but the first heads were chosen on the other half.
    """
    solo = result.solo
    halves = {"reporting": ("base_knn", "base_linear"), "choosing": ("choose_knn", "choose_linear")}
    measures = {
        f"{half}/{name}": solo[list(columns)].mean(axis=1)
        for half, (knn, linear) in halves.items()
        for name, columns in {"mean": (knn, linear), "knn": (knn,), "linear": (linear,)}.items()
    }
    own = next((name for name in solo["candidate"] if name.startswith("own")), None)
    rows = []
    for measure, values in measures.items():
        half, _, score = measure.partition("/")
        for reference in filter(None, (NO_HEAD, own)):
            alone = values[solo["candidate"] == reference].mean()
            for head, gain in gains(solo.assign(value=values), "value", reference).items():
                rows.append(
                    {
                        "labels": half, "score": score, "reference": reference,
                        "accuracy_of_reference": alone, "candidate": head, "gain": gain.value,
                        "low": gain.low, "high": gain.high, "p": gain.p, "runs": gain.runs,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
