"""The commands to use before a search: `space` lists candidates, `bench` measures their cost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from headsearch.cli.flags import settings_as_flags
from headsearch.cli.output import console_here, importing
from headsearch.config.audio_settings import HOP_MS, MELS
from headsearch.config.base_names import shape_for
from headsearch.config.domains import IMAGE
from headsearch.config.setting_groups import OF_A_STEP
from headsearch.config.settings import RunConfig
from headsearch.errors import UserError
from headsearch.runs.console import HarmlessConsole, loading_shown


def space(
    file: Annotated[str, typer.Argument(help="A YAML file, or the name of a built-in space.")],
    base: Annotated[str, typer.Option(help="The base that heads are resolved on.")] = "vit_mini",
    base_args: Annotated[
        str | None, typer.Option(help="Arguments of the model: depth=6,embed_dim=192.")
    ] = None,
    image_size: Annotated[int, typer.Option(min=16, help="Side of the images in pixels.")] = 32,
    patch_size: Annotated[
        int | None, typer.Option(min=1, help="Patch side in pixels, or time steps of a clip.")
    ] = None,
    clip_seconds: Annotated[
        float | None,
        typer.Option(min=0.01, max=120, help="Clips of sound in place of images: their length."),
    ] = None,
    hop_ms: Annotated[
        float, typer.Option(min=1, max=1000, help="Milliseconds between time steps of clips.")
    ] = HOP_MS,
    mels: Annotated[int, typer.Option(min=16, max=256, help="Mel bands of clips.")] = MELS,
    limit: Annotated[int, typer.Option(min=1, help="Candidates to list at most.")] = 200,
) -> None:
    """Check a search space and list its candidates with parameters and GFLOPs.

    Example: [bold]headsearch space heads.yaml --base vit_s[/bold]

    Example: [bold]headsearch space sequence.yaml --base vit_s --clip-seconds 1[/bold]
    """
    from headsearch.cli.space_view import print_space
    from headsearch.models.bases import plan_named
    from headsearch.models.space import find_space, load_space

    loaded = load_space(find_space(file))
    shape = shape_for(base, image_size, clip_seconds, hop_ms, mels)
    plan = plan_named(base, shape, patch_size=patch_size, base_args=base_args)
    print_space(console_here(), loaded.on(plan), limit)


@settings_as_flags(without=[name for name in RunConfig.model_fields if name not in OF_A_STEP])
def bench(
    heads: Annotated[
        str, typer.Option(help="Numbers of heads to train together, separated by commas.")
    ] = "1,2,4,8,16",
    data: Annotated[
        str | None,
        typer.Option(help="Photos, as in run --data: also measures how fast they are read."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each time.")] = 5,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of tables.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(help="Read settings from a YAML file (a run's config.yaml); flags override."),
    ] = None,
    **flags: Any,
) -> None:
    """Measure on this machine what heads cost together, in parts, and one at a time.

    Measures in turn: the base's step without heads, what each head adds by itself, joint steps, \
and steps with one head each. Uses synthetic images, or random clips (--domain audio; of 1 second, \
or --clip-seconds) or texts (--base hf:…; of 64 tokens, or --text-tokens), and writes nothing.

    Example: [bold]headsearch bench --base vit_s --space heads.yaml[/bold]

    Example: [bold]headsearch bench --base vit_s --clip-seconds 2[/bold]
    """
    given = {name: value for name, value in flags.items() if value is not None}
    counts = _counts(heads)

    console = HarmlessConsole(stderr=True, highlight=False, markup=False)  # results may be piped
    with importing(console):
        import optuna

        from headsearch.cli.benchmark_view import print_findings, watch
        from headsearch.data import DataSettings
        from headsearch.study.profiling.benchmark import Bench
        from headsearch.study.profiling.benchmark_setup import bench_settings, prepare_bench
        from headsearch.study.profiling.reading import measure_reading
        from headsearch.training.environment import resolve_here

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with loading_shown(console) as loading:
        settings = bench_settings(resolve_here(given, config), max(counts))
        if data is not None and settings.domain != IMAGE:
            raise UserError("--data measures how fast photos are read: leave it out")
        found = Bench(prepare_bench(settings, loading), counts, repeats)
    watch(found, console)
    findings = found.findings()
    if data is not None:
        size = findings.base.image_size
        reading = measure_reading(data, size, settings, DataSettings(), findings.base_ms)
        findings = replace(findings, reading=reading)
    if as_json:
        print(json.dumps(findings.to_json(), indent=2))
    else:
        print_findings(console_here(), findings)


def _counts(heads: str) -> list[int]:
    """The numbers of heads that `--heads` lists."""
    try:
        counts = [int(part) for part in heads.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise UserError(f"--heads takes numbers from 1 on, separated by commas, but got {heads!r}")
    return counts
