"""Which images of a batch each head of a cohort sees (`--images-per-head`).

The base always sees the whole batch. What each of the K heads sees depends on the setting:

- `all`: the whole batch.
- `share`: ⌊B/K⌋ images, different ones for every head. The cost of a cohort is then about that of
  one base and one head, for any K. The live heads divide the batch, so when a head leaves, the
  images of the others change from the next step on.
- a number: that many images. Which ones is a function of the seed, the step and the name of the
  head, so a head sees the same images in any cohort, or alone, whichever other heads leave. Every
  image of the batch is equally likely; the images of two heads may overlap.

With `share` and with a number a head takes consecutive images of the batch. The order of the images
is drawn again in every epoch, so a head sees a fraction n/B of them per epoch and all of them over
many epochs.

Shapes: B images of a batch, 2B crops (the B first crops, then the B second crops), K heads, n
images of each head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headsearch import torchrun
from headsearch.config.settings import ImagesPerHead
from headsearch.errors import UserError
from headsearch.seeding import seed_for
from headsearch.text import counted

FEWEST = 2
"""The least number of images per head: objectives that compare the images of a batch need two."""


def head_batch_size(setting: ImagesPerHead, batch: int, heads: int) -> int:
    """The number of images that each of `heads` heads sees in a batch of `batch` images."""
    if setting == "all" or not heads:
        return batch
    return batch // heads if setting == "share" else min(setting, batch)


def check_images_per_head(
    setting: ImagesPerHead, batch: int, heads: int, samples: str = "images"
) -> None:
    """Checks that the setting can be used with this batch and this many heads.

    Raises:
        UserError: the job has several processes, the setting asks for more images than a step has,
            or it leaves fewer than `FEWEST` images per head.
    """
    # With several ranks no rank holds all images of a step, so none could select from all of them.
    if setting != "all" and torchrun.count() > 1:
        raise UserError(
            f"--images-per-head {setting} is for one process only: leave it out of a job with "
            "several processes"
        )
    if isinstance(setting, int) and setting > batch:
        raise UserError(f"--images-per-head {setting} is more than the {batch} {samples} of a step")
    count = head_batch_size(setting, batch, heads)
    if count < FEWEST:
        raise UserError(
            f"--images-per-head {setting} leaves {counted(heads, 'head')} {count} of {batch} "
            f"{samples} each, but a head needs at least {FEWEST}: use a lower --cohort or a larger "
            "--batch-size"
        )


@dataclass(frozen=True)
class HeadBatches:
    """The crops of a step that each head sees.

    Attributes:
        rows: by head, (2n,) int64 indices into the 2B crops: n first crops, then the second crops
            of the same images.
    """

    rows: dict[str, Tensor]

    def of(self, heads: Sequence[str], crops: Tensor) -> dict[str, Tensor]:
        """Selects the rows of these heads from a tensor of all crops: (2B, …) to (2n, …) each."""
        # One selection for all heads, so that one kernel runs however many heads there are.
        rows = torch.cat([self.rows[head] for head in heads])
        return dict(zip(heads, _select_rows(crops, rows).chunk(len(heads)), strict=True))


def draw_head_batches(
    setting: ImagesPerHead,
    batch: int,
    heads: Sequence[str],
    *,
    seed: int,
    step: int,
    device: torch.device,
) -> HeadBatches | None:
    """Chooses the crops that each head sees in a step; None where every head sees all of them.

    Args:
        setting: the value of `--images-per-head`.
        batch: B, the number of images of the step.
        heads: names of the live heads.
        seed: the seed of the run.
        step: the number of the step.
        device: where the indices are needed.
    """
    count = head_batch_size(setting, batch, len(heads))
    if count == batch:
        return None
    if setting == "share":
        starts = [index * batch // len(heads) for index in range(len(heads))]
    else:
        starts = [seed_for(seed, "images of", head, step) % batch for head in heads]
    starts_K1 = torch.tensor(starts).unsqueeze(1).to(device, non_blocking=True)
    images_Kn = (starts_K1 + torch.arange(count, device=device)) % batch
    rows_K2n = torch.cat([images_Kn, images_Kn + batch], dim=1)
    return HeadBatches(dict(zip(heads, rows_K2n.unbind(), strict=True)))


def _select_rows(crops: Tensor, rows: Tensor) -> Tensor:
    """`crops[rows]` in the memory format of `crops`, which `index_select` alone would not keep."""
    if crops.ndim == 4 and crops.is_contiguous(memory_format=torch.channels_last):
        return crops.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
    return crops.index_select(0, rows)
