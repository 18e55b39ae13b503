"""Compares training K equal-shaped heads in a loop with training them as one stack of weights.

    python benchmarks/stacked_heads.py --out results/speed/stacked_heads.csv

Measures forward pass, backward pass and update of K heads of one shape on the same fixed features,
in two ways: in a loop over the heads, as a search does, and by `torch.func.stack_module_state` with
`vmap`, which makes one batched product of K linear layers. Both start from the same weights and
must compute the same losses. They take turns. The reported time is the shortest repeat, in the
process's own CPU time on one thread, which other work on the machine disturbs least. A ratio above
1 means that the stack is faster. bfloat16 is measured where the hardware multiplies it.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from headsearch.config.settings import resolve
from headsearch.device import fast_at_bf16, mixed_precision
from headsearch.models.heads import build_head, fit_to_map
from headsearch.runs.tables import write_table
from headsearch.training.environment import set_up

HEADS: dict[str, dict[str, int]] = {"mixer": {}, "attention": {}, "convnext": {"kernel": 7}}
COUNTS = (2, 4, 8)
IMAGES = {16: (8, 64), 64: (4, 16)}
"""By tokens: how many crops each head sees, few (a share of a step's) or many."""
CPU = torch.device("cpu")


def step_of_loop(heads: list[nn.Module], maps: Tensor, autocast: bool) -> Callable[[], Tensor]:
    """A step of one head after the other; it returns their losses (K,) before the update."""
    optimizer = torch.optim.AdamW((p for head in heads for p in head.parameters()), fused=True)

    def step() -> Tensor:
        with mixed_precision(CPU, autocast):
            losses = torch.stack([head(maps).float().square().mean() for head in heads])
        losses.sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return losses.detach()

    return step


def step_of_stack(heads: list[nn.Module], maps: Tensor, autocast: bool) -> Callable[[], Tensor]:
    """The same step with stacked weights."""
    weights, buffers = stack_module_state(heads)
    weights = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    optimizer = torch.optim.AdamW(weights.values(), fused=True)

    def loss(own: dict[str, Tensor], buffer: dict[str, Tensor]) -> Tensor:
        output: Tensor = functional_call(heads[0], (own, buffer), (maps,))
        return output.float().square().mean()

    def step() -> Tensor:
        with mixed_precision(CPU, autocast):
            losses = vmap(loss)(weights, buffers)
        losses.sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return losses.detach()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dims", type=int, nargs="+", default=[96, 384])
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    set_up(resolve({"threads": 1, "device": "cpu"}))  # plain attention, freed memory kept
    rows: list[dict[str, object]] = []
    for dim, autocast, tokens in itertools.product(
        arguments.dims, [False, True] if fast_at_bf16(CPU) else [False], IMAGES
    ):
        for family, images, count in itertools.product(HEADS, IMAGES[tokens], COUNTS):
            loop_s, stack_s = _measured(
                family, dim, tokens, images, count, autocast, arguments.repeats
            )
            rows.append({
                "head": f"{family}-d2",
                "dim": dim,
                "tokens": tokens,
                "images": images,
                "heads": count,
                "precision": "bf16" if autocast else "float32",
                "loop_ms": 1000 * loop_s,
                "stack_ms": 1000 * stack_s,
                "ratio": loop_s / stack_s,
            })  # fmt: skip
            print(rows[-1], flush=True)
            write_table(arguments.out, pd.DataFrame(rows))


def _measured(
    family: str, dim: int, tokens: int, images: int, count: int, autocast: bool, repeats: int
) -> tuple[float, float]:
    """Seconds of a step in the loop, and as a stack."""
    torch.manual_seed(0)
    grid = (round(tokens**0.5),) * 2
    parameters = {"depth": 2, **HEADS[family]}
    heads = [fit_to_map(build_head(family, dim, grid, parameters), grid) for _ in range(count)]
    maps = torch.randn(images, dim, *grid)
    # The stack copies the weights, so that the loop's updates do not change them.
    ways = [step(heads, maps, autocast) for step in (step_of_stack, step_of_loop)]
    losses: list[list[Tensor]] = [[], []]
    times: list[list[float]] = [[], []]
    for _ in range(1 + repeats):
        for way, step in enumerate(ways):
            started = time.process_time()
            losses[way].append(step())
            times[way].append(time.process_time() - started)
    for of_stack, of_loop in zip(*losses, strict=True):
        torch.testing.assert_close(of_stack, of_loop, rtol=2e-2 if autocast else 1e-4, atol=1e-4)
    stack_s, loop_s = (min(taken[1:]) for taken in times)
    return loop_s, stack_s


if __name__ == "__main__":
    main()
