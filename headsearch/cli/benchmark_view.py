"""The output of `headsearch bench`: its progress in a terminal, and the tables of its results."""

from __future__ import annotations

import time

from rich.console import Console
from rich.text import Text

from headsearch.config.domains import IMAGE, words_of
from headsearch.report import Table
from headsearch.report.console import print_table, progress_bar
from headsearch.report.live import can_redraw, live_area
from headsearch.runs.console import loading_shown, say
from headsearch.study.profiling.benchmark import Bench
from headsearch.study.profiling.benchmark_findings import BenchFindings
from headsearch.text import counted, duration

LEGEND = (
    "A step is forward and backward pass, clipping, optimizer update and teacher update, on "
    "{views} made in advance. Own: what a head adds to a step by itself, on fixed features of the "
    "base. Overhead: joint over base + own; 1 means that joint training adds nothing to the parts. "
    "Saving: joint over the same heads one by one. Times are medians of {repeats}, with "
    "the smallest and the largest ratio in brackets. Memory: {memory}. Counted: the memory of all "
    "trained parameters and kept activations, as a dry run predicts it."
)
OF_PROCESS = "the peak of a separate process, of which {before:.0f} MB before training"
OF_DEVICE = "the most that PyTorch had allocated on the device"


def watch(bench: Bench, console: Console) -> None:
    """Runs the measurements, with a progress bar in a terminal, else a line for each kind."""
    if not can_redraw(console):
        with loading_shown(console) as loading:
            bench.measure(lambda part, done, total: loading(f"measuring {part}"))
        return
    with live_area(console, Text("measuring …")) as draw:
        started = time.monotonic()

        def show(part: str, done: int, total: int) -> None:
            words = [f"part {done + 1}/{total}", f"measuring {part}"]
            if done:
                left = (time.monotonic() - started) / done * (total - done)
                words.append(f"{duration(left)} left")
            draw(progress_bar(console, words, done, total))

        bench.measure(show)


def print_findings(console: Console, findings: BenchFindings) -> None:
    """The tables of a benchmark's results, with a legend."""
    base, machine = findings.base, findings.machine
    threads = counted(machine["threads"], "thread")
    where = machine["accelerator"] or f"{machine['processor']}, {threads}"
    samples, views = words_of(base.domain).samples, "crops" if base.domain == IMAGE else "views"
    say(
        console,
        f"{base.name} on {base.inputs}, "
        f"{findings.objective}, {findings.coupling}, batches of {findings.batch_size}, "
        f"{findings.precision} on {where}",
    )
    say(
        console,
        f"the base alone: {findings.base_ms:.1f} ms a step, "
        f"{findings.base_images_per_second:.0f} {samples}/s, "
        f"{findings.base_peak_memory_mb:.0f} MB; making a step's {views} takes "
        f"{findings.crops_ms:.1f} ms more, which is in no other figure",
    )
    if findings.reading is not None:
        say(console, findings.reading.words)
    reached, product = findings.base_tflops_per_second, findings.product_tflops_per_second
    say(
        console,
        f"that is {reached:.3g} TFLOP/s, {reached / product:.0%} of the {product:.3g} TFLOP/s of "
        "a large matrix product on this device",
    )
    console.print()
    print_table(console, _head_table(findings))
    console.print()
    print_table(console, _cohort_table(findings))
    console.print()
    say(
        console,
        f"each further head: {findings.ms_per_head:.1f} ms and "
        f"{findings.memory_per_head_mb:.0f} MB (slope of a line fitted to all rows and the base)",
    )
    memory = OF_DEVICE if machine["accelerator"] else OF_PROCESS
    memory = memory.format(before=findings.process_memory_mb)
    repeats = counted(findings.repeats, "repeat")
    say(console, LEGEND.format(repeats=repeats, memory=memory, views=views))


def _head_table(findings: BenchFindings) -> Table:
    return Table(
        ["Head", "Params (M)", "GFLOPs", "Own (ms)", "of base", "With the base (ms)"],
        [False, True, True, True, True, True],
        [
            [
                head.candidate,
                f"{head.params_m:.2f}",
                f"{head.gflops:.3f}",
                f"{head.own_ms:.1f}",
                f"{100 * head.own_ms / findings.base_ms:.0f} %",
                f"{head.solo_ms:.1f}",
            ]
            for head in findings.heads
        ],
        ["GFLOPs", "of base", "Params (M)", "With the base (ms)"],
    )


def _cohort_table(findings: BenchFindings) -> Table:
    each, rate = (
        words_of(findings.base.domain).say(what) for what in ("{Samples} each", "{Samples}/s")
    )
    headings = [
        "Heads", each, "Joint (ms)", "Base + own (ms)", "Overhead", "One by one (ms)",
        "Saving", rate, "ms a head", "Memory (MB)", "Counted (MB)", "MB a head",
    ]  # fmt: skip
    return Table(
        headings,
        [True] * len(headings),
        [
            [
                str(cohort.heads),
                str(cohort.images_per_head),
                f"{cohort.joint_ms:.1f}",
                f"{cohort.parts_ms:.1f}",
                _with_range(cohort.overhead_ratio, cohort.overhead_range),
                f"{cohort.solo_ms:.1f}",
                _with_range(cohort.saving_ratio, cohort.saving_range),
                f"{cohort.images_per_second:.0f}",
                f"{cohort.ms_per_head:.1f}",
                f"{cohort.peak_memory_mb:.0f}",
                f"{cohort.predicted_memory_mb:.0f}",
                f"{cohort.memory_per_head_mb:.0f}",
            ]
            for cohort in findings.cohorts
        ],
        ["Counted (MB)", each, "MB a head", "ms a head", "Base + own (ms)",
         "One by one (ms)", rate, "Memory (MB)", "Saving"],
    )  # fmt: skip


def _with_range(ratio: float, bounds: list[float]) -> str:
    return f"{ratio:.2f} [{bounds[0]:.2f}, {bounds[1]:.2f}]"
