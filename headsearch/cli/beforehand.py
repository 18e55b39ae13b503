"""Commands to know before a search what it will meet."""

from __future__ import annotations

from typing import Annotated

import typer

from headsearch.cli.output import console_here


def space(
    file: Annotated[str, typer.Argument(help="A YAML file, or the name of a space that ships.")],
    base: Annotated[str, typer.Option(help="The base that heads are resolved on.")] = "vit_s",
    base_args: Annotated[
        str | None, typer.Option(help="Arguments of timm's model: depth=6,embed_dim=192.")
    ] = None,
    image_size: Annotated[int, typer.Option(min=16, help="Side of the images in pixels.")] = 32,
    patch_size: Annotated[int | None, typer.Option(min=1, help="Patch side in pixels.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Candidates to list at most.")] = 200,
) -> None:
    """Check a search space and list its candidates with parameters and GFLOPs.

    Example: [bold]headsearch space heads.yaml --base vit_s[/bold]
    """
    from headsearch.bases import base_arguments, plan_base
    from headsearch.console import print_space
    from headsearch.space import find_space, load_space

    loaded = load_space(find_space(file))
    arguments = base_arguments(base, base_args)
    plan = plan_base(base, image_size, patch_size=patch_size, arguments=arguments)
    print_space(console_here(), loaded.on(plan), limit)
