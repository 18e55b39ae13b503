"""Measures the built-in dataset: how fast it is generated, and its accuracy without training.

    python benchmarks/scenes.py [--image-size 32] [--threads 1]

Prints images a second, then the k-NN accuracy (k = 20, temperature 0.07) of raw pixels and of
untrained vision transformers: the baselines that a pretrained base has to beat.
"""

from __future__ import annotations

import argparse
import time

import timm
import torch
from torch import Tensor

from headsearch.data.image.synthetic.scenes import CLASSES, generate_scenes
from headsearch.data.image.views import normalize
from headsearch.evaluation.proxies.knn import accuracy, knn_predict

MODELS = ("vit_tiny_patch16_224", "vit_small_patch16_224")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--patch-size", type=int, default=8)
    parser.add_argument("--bank", type=int, default=2000, help="images that vote")
    parser.add_argument("--queries", type=int, default=1000, help="images that are classified")
    parser.add_argument("--seeds", type=int, default=3, help="datasets, and initialisations")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size, bank = arguments.image_size, arguments.bank

    print(f"{images_a_second(size):.0f} images/s at {size} px on {arguments.threads} thread(s)")
    scores: dict[str, list[float]] = {}
    for seed in range(arguments.seeds):
        scenes = generate_scenes(bank + arguments.queries, size, seed)
        images = normalize(scenes.images)
        features = {"raw pixels": images.flatten(1)}
        for model in MODELS:
            features[f"untrained {model}"] = untrained(model, images, arguments.patch_size, seed)
        for name, features_ND in features.items():
            predicted = knn_predict(
                features_ND[:bank], scenes.labels[:bank], features_ND[bank:], len(CLASSES)
            )
            scores.setdefault(name, []).append(100 * accuracy(predicted, scenes.labels[bank:]))
    print(f"k-NN accuracy, chance {100 / len(CLASSES):.0f}%, {bank} images vote:")
    for name, values in scores.items():
        spread = f"{min(values):.1f} to {max(values):.1f} over {len(values)} seed(s)"
        print(f"  {name:33} {sum(values) / len(values):5.1f}%  ({spread})")


def images_a_second(size: int) -> float:
    """Images that are generated in a second: the best of five runs, as other work may slow some."""
    count = max(10, 2000 * 32**2 // size**2)
    rates = []
    for _ in range(6):
        start = time.perf_counter()
        generate_scenes(count, size, seed=0)
        rates.append(count / (time.perf_counter() - start))
    return max(rates[1:])  # the first run is a warm-up


@torch.inference_mode()
def untrained(model: str, images: Tensor, patch_size: int, seed: int) -> Tensor:
    """(N, D): the mean patch token of each image, by a newly initialised network."""
    torch.manual_seed(seed)
    size = images.shape[-1]
    base = timm.create_model(model, img_size=size, patch_size=patch_size, num_classes=0).eval()
    tokens = [
        base.forward_features(batch)[:, base.num_prefix_tokens :] for batch in images.split(256)
    ]
    return torch.cat(tokens).mean(dim=1)


if __name__ == "__main__":
    main()
