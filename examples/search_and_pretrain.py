"""From a search to a pretrained base, in well under a minute on one CPU core.

    python examples/search_and_pretrain.py [DIRECTORY]

Sizes are tiny, so that every step runs quickly; the scores mean nothing. For a meaningful ranking,
leave `SIZE` out and pass your own images as `data=` and `eval_data=`: a folder, a .tar, a timm
dataset, or a torch.utils.data.Dataset.
"""

import sys
import tempfile
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file

import headsearch

SIZE = {
    "image_size": 16,
    "patch_size": 4,
    "images": 128,
    "epochs": 2,
    "batch_size": 32,
    "rungs": 2,
    "eval_images": 64,
    "bank_images": 64,
    "device": "cpu",
    "threads": 1,
}

# A search space, in the same form as a YAML file: families, and which of their parameters vary.
SPACE = {
    "families": {
        "convnext": {"depth": 1, "kernel": 3, "first_shortcut": [True, False]},
        "mixer": {"depth": 1},
    },
    "controls": {"identity": None},
}


def main(directory: Path) -> None:
    # List the candidates of the space, with what each costs on this base.
    print(headsearch.candidates(SPACE, "test_vit", image_size=16, patch_size=4), "\n")

    # Train all of them on one shared base, on generated images; weak heads are pruned on the way.
    found = headsearch.search(
        "test_vit", SPACE, data="scenes", out=directory / "search", min_keep=1, **SIZE
    )
    print(found.ranking[["rank", "candidate", "state", "discrepancy", "head_knn"]], "\n")
    print(found.advice, "\n")
    print("report:", found.run_directory / "report.html")

    # Write the best head as YAML for headsearch, and as PyTorch for your own training code.
    head = found.export(rank=1)
    print("exported:", head.yaml, head.python)

    # Pretrain the base again with this head alone, from the same initial weights.
    base = found.pretrain(rank=1, epochs=1, out=directory / "pretrained")
    print(base.scores[["rung", "step", "base_knn", "loss"]], "\n")

    # The result is an ordinary timm model.
    print("load it with:", base.loading)
    model = timm.create_model(
        "test_vit", num_classes=0, img_size=16, patch_size=4, checkpoint_path=str(base.weights)
    )
    features = model.eval()(torch.randn(2, 3, 16, 16))
    print(len(load_file(base.weights)), "tensors; features", tuple(features.shape))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
