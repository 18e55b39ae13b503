"""Measures what the dense scores of a rung cost beside the forward passes that they need.

    python benchmarks/dense_cost.py --dense-data camvid --image-size 64 --patch-size 4

Prints CPU seconds of one thread: opening, what is made once for a grid, the forward passes of base
and heads over all dense images, and the dense scores without them. The network is untrained: its
weights change no cost.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from headsearch.config.normalization import IMAGENET
from headsearch.data.dense import DenseSettings, open_dense
from headsearch.data.image.views import normalize
from headsearch.evaluation.dense import DenseScorer, MapsOf
from headsearch.models.bases import plan_base
from headsearch.models.heads import build_head
from headsearch.training.dense import IMAGES_CPU

HEADS = {"convnext": {"depth": 2}, "attention": {"depth": 2}, "mixer": {"depth": 2}}
BATCH = 64


class Timed:
    """Maps of a network, and the CPU seconds that they took."""

    def __init__(self, maps_of: MapsOf) -> None:
        self.maps_of, self.seconds = maps_of, 0.0

    def __call__(self, pixels: Tensor) -> Mapping[str, Tensor]:
        begin = time.process_time()
        maps = self.maps_of(pixels)
        self.seconds += time.process_time() - begin
        return maps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dense-data", required=True)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--patch-size", type=int, default=4)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--images", type=int, nargs=2, default=IMAGES_CPU)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cpu, cost = torch.device("cpu"), _Clock()
    data = open_dense(
        arguments.dense_data,
        DenseSettings(
            arguments.image_size,
            train_images=arguments.images[0],
            evaluation_images=arguments.images[1],
        ),
    )
    cost.say(f"opening {len(data.train)} + {len(data.evaluation)} images")
    plan = plan_base(
        "vit_tiny_patch16_224",
        arguments.image_size,
        patch_size=arguments.patch_size,
        accelerator=False,
        arguments={"depth": 6, "embed_dim": arguments.width, "num_heads": 3},
    )
    dim, grid = plan.stages[0]
    base, norm = plan.build(0.0).eval(), torch.nn.LayerNorm(dim)
    heads = {name: build_head(name, dim, grid, values).eval() for name, values in HEADS.items()}

    def maps_of(pixels: Tensor) -> dict[str, Tensor]:
        output = base(normalize(pixels, IMAGENET), feature_indices=(0,))
        map_BDHW = output.maps_BDHW[0]
        of_heads = {name: head(map_BDHW) for name, head in heads.items()}
        maps = {"base": map_BDHW, **of_heads}
        return {name: norm(each.movedim(1, -1)).movedim(-1, 1) for name, each in maps.items()}

    scorer, timed = DenseScorer(data, cpu, BATCH), Timed(maps_of)
    cost.say("a network")
    scorer.tasks(grid)
    cost.say(f"targets on {grid[0]}×{grid[1]} patches")
    scores = scorer.scores(timed)
    seconds = cost.seconds()
    print(f"forward passes of the base and {len(heads)} heads: {timed.seconds:.1f} s")
    print(f"dense scores of {len(scores)} representations: {seconds - timed.seconds:.1f} s")
    for name, each in scores.items():
        print(name, " ".join(f"{k} {100 * v:.2f}" for k, v in each.report.items()))


class _Clock:
    """CPU seconds since it was last asked."""

    def __init__(self) -> None:
        self._begin = time.process_time()

    def seconds(self) -> float:
        now = time.process_time()
        passed, self._begin = now - self._begin, now
        return passed

    def say(self, what: str) -> None:
        print(f"{what}: {self.seconds():.1f} s", flush=True)


if __name__ == "__main__":
    main()
