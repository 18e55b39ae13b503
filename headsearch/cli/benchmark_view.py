"""What a person sees of a benchmark: what is measured now, and what came out."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from headsearch.report import Table
from headsearch.report.console import HarmlessConsole, print_table, say
from headsearch.study.profiling.benchmark import Bench

LEGEND = (
    "A step is forward, backward, clipping, update and the teacher's move, on crops that lie "
    "ready. Own: what a head adds to a step by itself, on given features of the base. Overhead: "
    "joint over base + own; 1 is the sum of the parts. Saving: joint over the same heads one by "
    "one. In brackets the least and the most of {repeats} repeats, whose medians the figures are. "
    "Memory: {memory}. Counted: what the numbers trained and the kept activations come to."
)
OF_PROCESS = "the most that a process of its own held, of which {before:.0f} MB before training"
OF_DEVICE = "the most that PyTorch had allocated on the device"


def watch(bench: Bench) -> None:
    """Measures, and says on a terminal what comes next; standard output stays free."""
    console = HarmlessConsole(stderr=True, highlight=False, markup=False)
    if not console.is_terminal:
        for _ in bench.measure():
            pass
        return
    with console.status("") as status:
        for what in bench.measure():
            status.update(f"measuring {what} …")


def print_findings(console: Console, found: dict[str, Any]) -> None:
    """The tables of a benchmark's findings, and what they mean."""
    base, machine = found["base"], found["machine"]
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    where = machine["accelerator"] or f"{machine['processor']}, {threads}"
    say(
        console,
        f"{base['name']} on {base['image_size']}×{base['image_size']} images, "
        f"{found['objective']}, {found['coupling']}, batches of {found['batch_size']}, "
        f"{found['precision']} on {where}",
    )
    say(
        console,
        f"the base alone: {found['base_ms']:.1f} ms a step, "
        f"{found['base_images_per_second']:.0f} images/s, {found['base_peak_memory_mb']:.0f} MB; "
        f"a step's crops take {found['crops_ms']:.1f} ms more, in none of these figures",
    )
    reached, product = found["base_tflops_per_second"], found["product_tflops_per_second"]
    say(
        console,
        f"that is {reached:.3g} TFLOP/s, {reached / product:.0%} of the {product:.3g} that one "
        "matrix product reaches here",
    )
    console.print()
    print_table(console, _heads(found))
    console.print()
    print_table(console, _cohorts(found))
    console.print()
    say(
        console,
        f"each further head: {found['ms_per_head']:.1f} ms and "
        f"{found['memory_per_head_mb']:.0f} MB (the straight line through all rows)",
    )
    memory = OF_DEVICE if machine["accelerator"] else OF_PROCESS
    memory = memory.format(before=found["process_memory_mb"])
    say(console, LEGEND.format(repeats=found["repeats"], memory=memory))


def _heads(found: dict[str, Any]) -> Table:
    return Table(
        ["Head", "Params (M)", "GFLOPs", "Own (ms)", "of base", "With the base (ms)"],
        [False, True, True, True, True, True],
        [
            [
                head["candidate"],
                f"{head['params_m']:.2f}",
                f"{head['gflops']:.3f}",
                f"{head['own_ms']:.1f}",
                f"{100 * head['own_ms'] / found['base_ms']:.0f} %",
                f"{head['solo_ms']:.1f}",
            ]
            for head in found["heads"]
        ],
    )


def _cohorts(found: dict[str, Any]) -> Table:
    headings = [
        "Heads", "Images each", "Joint (ms)", "Base + own (ms)", "Overhead", "One by one (ms)",
        "Saving", "Images/s", "ms a head", "Memory (MB)", "Counted (MB)", "MB a head",
    ]  # fmt: skip
    return Table(
        headings,
        [True] * len(headings),
        [
            [
                str(cohort["heads"]),
                str(cohort["images_per_head"]),
                f"{cohort['joint_ms']:.1f}",
                f"{cohort['parts_ms']:.1f}",
                _ratio(cohort["overhead_ratio"], cohort["overhead_range"]),
                f"{cohort['solo_ms']:.1f}",
                _ratio(cohort["saving_ratio"], cohort["saving_range"]),
                f"{cohort['images_per_second']:.0f}",
                f"{cohort['ms_per_head']:.1f}",
                f"{cohort['peak_memory_mb']:.0f}",
                f"{cohort['predicted_memory_mb']:.0f}",
                f"{cohort['memory_per_head_mb']:.0f}",
            ]
            for cohort in found["cohorts"]
        ],
    )


def _ratio(value: float, bounds: list[float]) -> str:
    return f"{value:.2f} [{bounds[0]:.2f}, {bounds[1]:.2f}]"
