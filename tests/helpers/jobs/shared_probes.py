"""A job that opens images; each process writes what it has, and how many images it decoded for it.

PYTHONPATH=tests torchrun --nproc-per-node 2 tests/helpers/jobs/shared_probes.py TRAIN EVAL OUT
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from headsearch import torchrun
from headsearch.data.image.photos import PhotoReader
from headsearch.training.environment import resolve_here
from headsearch.training.setup import prepare_training

decoded: list[int] = []
evaluated = PhotoReader.evaluated


def noted(reader: PhotoReader, index: int) -> Any:
    decoded.append(index)
    return evaluated(reader, index)


PhotoReader.evaluated = noted  # type: ignore[method-assign]
train, queries, out = sys.argv[1:]
setup = prepare_training(
    resolve_here(
        {"base": "test_vit", "data": train, "eval_data": queries, "image_size": 16, "patch_size": 4,
         "images": 32, "bank_images": 40, "eval_images": 82, "batch_size": 16, "epochs": 2,
         "rungs": 1, "device": "cpu", "threads": 1, "max_bad_images": 0.5}
    )
)  # fmt: skip
data = setup.data
assert data.bank is not None
torch.save(
    {"bank": data.bank.batch(torch.arange(len(data.bank))),
     "queries": data.queries.batch(torch.arange(len(data.queries))),
     "labels": data.queries.labels, "left out": data.left_out.lines, "decoded": len(decoded)},
    Path(out) / f"{torchrun.rank()}.pt",
)  # fmt: skip
