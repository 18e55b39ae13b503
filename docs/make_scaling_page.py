"""Updates the tables in docs/scaling.md from results/scaling/*.csv, and draws docs/scaling.png.

    python docs/make_scaling_page.py

`benchmarks/scaling.py`, `engine.py` and `chaos.py` write the CSV files. In the page, a table
is what stands between `<!-- table NAME -->` and `<!-- end -->`; the text around it is kept.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

DOCS = Path(__file__).parent
TABLES = DOCS.parent / "results" / "scaling"
NAMES = {"vit_s": "ViT-S", "vit_b": "ViT-B"}


def main() -> None:
    page = DOCS / "scaling.md"
    text = page.read_text(encoding="utf-8")
    for name, to_markdown in MARKDOWN.items():
        block = re.compile(rf"(<!-- table {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        assert block.search(text), name
        table = to_markdown(pd.read_csv(TABLES / f"{name}.csv"))
        text = block.sub(lambda match, table=table: match[1] + table + match[2], text)
    page.write_text(text, encoding="utf-8")
    draw(pd.read_csv(TABLES / "searches.csv"))


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, [":---", *["---:"] * (len(headings) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def short(value: float) -> str:
    """A value with two or three digits: the figures are no more precise than that."""
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def loads(table: pd.DataFrame) -> str:
    rows = {
        "parameters, base (M)": "base_params_m",
        "parameters, a head with its projection, mean (M)": "head_params_m",
        "parameters, base and 24 heads (M)": "all_params_m",
        "step of one image, base (GFLOPs)": "base_step_gflops",
        "step of one image, a head, mean (GFLOPs)": "head_step_gflops",
        "step with 24 heads, in steps of the base": "cost_in_bases",
        "24 steps with one head each, in steps of the base": "alone_in_bases",
        "kept for the backward, an image, base and 24 heads (MB)": "all_kept_mb",
        "weights, moments, teacher, gradients (GB)": "state_gb",
        "images that fit beside them into 80 GB": "most_images_on_80_gb",
        "embeddings gathered, contrastive, batch 1,024 (MB)": "gathered_mb_batch_1024",
    }
    by_base = table.set_index("base")
    return markdown(
        ["", *NAMES.values()],
        [
            [label, *(short(by_base.loc[base, column]) for base in NAMES)]
            for label, column in rows.items()
        ],
    )


def steps(table: pd.DataFrame) -> str:
    own = table[table["gpu"].str.startswith("H100")]
    fast, slow = (own[own["network"] == network] for network in ("8 × 400 Gb/s", "100 Gb/s"))
    key = ["base", "batch", "gpus"]
    both = fast.merge(slow[[*key, "all_reduce_s", "step_s"]], on=key, suffixes=("", "_slow"))
    shown = [(1024, 8), (1024, 16), (1024, 64), (4096, 256)]
    rows = []
    for base, name in NAMES.items():
        for batch, gpus in shown:
            row = both[(both["base"] == base) & (both["batch"] == batch) & (both["gpus"] == gpus)]
            r = row.iloc[0]
            ms = [
                1000 * r[c] for c in ("compute_s", "update_s", "all_reduce_s", "all_reduce_s_slow")
            ]
            one_node = gpus <= 8  # the network is not used
            rows.append([
                f"{name}, {batch:,} images", str(gpus), short(r["images_per_gpu"]),
                *map(short, ms[:3]), "–" if one_node else short(ms[3]),
                f"{100 * r['all_reduce_share']:.0f}%",
                "–" if one_node else f"{100 * r['all_reduce_s_slow'] / r['step_s_slow']:.0f}%",
                short(r["memory_gb"]) + ("" if r["fits"] else " (does not fit)"),
                f"{r['images_per_s_node']:,.0f}", short(r["cores_node"]),
            ])  # fmt: skip
    return markdown(
        ["", "GPUs", "images each", "compute (ms)", "update (ms)", "all-reduce (ms)",
         "on 100 Gb/s", "its share", "on 100 Gb/s", "memory (GB)",
         "images/s a node", "cores to decode them"],
        rows,
    )  # fmt: skip


def searches(table: pd.DataFrame) -> str:
    ways = list(table["way"].unique())
    rows = []
    for base, name in NAMES.items():
        for gpus in (8, 64, 512):
            own = table[(table["base"] == base) & (table["gpus"] == gpus)].set_index("way")
            cells = [
                f"{short(r['hours'])} [{short(r['hours_least'])}–"
                f"{short(r['hours_most'])}] on {r['gpus_busy']:.0f}"
                if not math.isnan(r["hours"])
                else "does not fit"
                for r in (own.loc[way] for way in ways)
            ]
            spent = " : ".join(
                short(own.loc[way, "gpu_hours"]) if own.loc[way, "hours"] > 0 else "–"
                for way in ways
            )
            rows.append([f"{name}, {gpus} GPUs", f"{own['batch'].iloc[0]:,}", *cells, spent])
    return markdown(["hours", "batch", *ways, "GPU-hours"], rows)


def storage(table: pd.DataFrame) -> str:
    return markdown(
        ["", "one snapshot (GB)", "a cohort's three (GB)", "first weights (GB)",
         "result (kB)"],
        [
            [f"{NAMES[row['base']]}, cohort of {row['heads']}", short(row["snapshot_gb"]),
             short(row["cohort_on_disk_gb"]), short(row["first_weights_gb"]),
             short(row["committed_kb"])]
            for _, row in table.iterrows()
        ],
    )  # fmt: skip


def engine(table: pd.DataFrame) -> str:
    return markdown(
        ["", "tasks", "seconds", "tasks/s", "driver's memory before (MB)", "after (MB)"],
        [
            [str(r["what"]), f"{r['tasks']:,}", short(r["seconds"]),
             short(r["tasks"] / r["seconds"]) if r["tasks"] else "–",
             short(r["mb_before"]), short(r["mb_after"])]
            for _, r in table.iterrows()
        ],
    )  # fmt: skip


def chaos(table: pd.DataFrame) -> str:
    return markdown(
        ["fault", "after it (s)", "what is timed", "resumed", "tables"],
        [
            [str(r["fault"]), f"{r['seconds']:.1f}", str(r["timed"]), str(r["resumed"]),
             "those of `run`" if r["same"] else "others"]
            for _, r in table.iterrows()
        ],
    )  # fmt: skip


MARKDOWN: dict[str, Callable[[pd.DataFrame], str]] = {
    "loads": loads, "steps": steps, "searches": searches, "storage": storage,
    "engine": engine, "chaos": chaos,
}  # fmt: skip
"""The table in Markdown, by the name of its CSV file."""


def draw(searched: pd.DataFrame) -> None:
    """Draws the hours of a search over GPUs."""
    figure, axes = plt.subplots(figsize=(5.5, 3.8), layout="constrained")
    own = searched[searched["base"] == "vit_b"]
    for colour, (way, rows) in zip(("C0", "C1", "C2"), own.groupby("way", sort=False), strict=True):
        axes.plot(rows["gpus"], rows["hours"], "o-", color=colour, label=way, ms=4)
        axes.fill_between(
            rows["gpus"], rows["hours_least"], rows["hours_most"], color=colour, alpha=0.1
        )
    axes.set(xscale="log", yscale="log", xlabel="H100s", ylabel="hours",
             title="ViT-B, 24 heads, 100 epochs")  # fmt: skip
    gpus = sorted(own["gpus"].unique())
    axes.set_xticks(gpus, map(str, gpus))
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(DOCS / "scaling.png", dpi=110)


if __name__ == "__main__":
    main()
