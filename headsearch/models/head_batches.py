"""Which images of a batch each head of a cohort sees.

The base sees all of them. With `all` so does every head; with `share` each of K heads sees B/K,
rounded down, and no two heads the same, so that a cohort costs about one base and one head however
many there are; with a number each head sees that many.

What holds. With a number, which images a head sees is a function of the seed, the step and the
head's name: it is the same in any cohort and alone, whoever leaves; any image of a batch is as
likely to be seen as any other, but heads may overlap. With `share` the heads that are live divide
each batch among them, so who leaves changes what the others see from the next step on. Both take
neighbours in a batch, whose order is drawn anew in each epoch: over epochs each head comes to see
all images, a share n/B of them in one.

Shapes: B images of a batch, 2B crops (the B first ones, then the B second ones), K heads, n images
of each.
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

FEWEST = 2
"""Images of a head: objectives that compare the images of a batch have nothing to do with one."""


def head_batch_size(setting: ImagesPerHead, batch: int, heads: int) -> int:
    """How many of `batch` images each of so many heads sees."""
    if setting == "all" or not heads:
        return batch
    return batch // heads if setting == "share" else min(setting, batch)


def check_images_per_head(setting: ImagesPerHead, batch: int, heads: int) -> None:
    """Raises UserError where heads would see too few images, or more than there are.

    Of several ranks none knows all images of a step, so that heads see all that theirs has.
    """
    if setting != "all" and torchrun.count() > 1:
        raise UserError(f"--images-per-head {setting} is for one process; leave it out of a job")
    if isinstance(setting, int) and setting > batch:
        raise UserError(f"--images-per-head {setting} is more than the {batch} images of a step")
    left = head_batch_size(setting, batch, heads)
    if left < FEWEST:
        raise UserError(
            f"--images-per-head {setting} leaves {heads} heads {left} of {batch} images each, and "
            f"{FEWEST} are the least: use a lower --cohort or a larger --batch-size"
        )


@dataclass(frozen=True)
class HeadBatches:
    """The crops that each head sees.

    Attributes:
        rows: by head, (2n,) int64 of the 2B crops: n first ones, then the second ones of the same
            images.
    """

    rows: dict[str, Tensor]

    def of(self, heads: Sequence[str], crops: Tensor) -> dict[str, Tensor]:
        """Of something of all crops (2B, …), what each of these heads sees of it (2n, …)."""
        rows = torch.cat([self.rows[head] for head in heads])  # one selection for all of them
        return dict(zip(heads, _selected(crops, rows).chunk(len(heads)), strict=True))


def draw_head_batches(
    setting: ImagesPerHead,
    batch: int,
    heads: Sequence[str],
    *,
    seed: int,
    step: int,
    device: torch.device,
) -> HeadBatches | None:
    """The crops that each head sees in a step; None where every head sees all."""
    count = head_batch_size(setting, batch, len(heads))
    if count == batch:
        return None
    if setting == "share":
        starts = [place * batch // len(heads) for place in range(len(heads))]
    else:
        starts = [seed_for(seed, "images of", head, step) % batch for head in heads]
    starts_K1 = torch.tensor(starts).unsqueeze(1).to(device, non_blocking=True)
    images_Kn = (starts_K1 + torch.arange(count, device=device)) % batch
    rows_K2n = torch.cat([images_Kn, images_Kn + batch], dim=1)
    return HeadBatches(dict(zip(heads, rows_K2n.unbind(), strict=True)))


def _selected(crops: Tensor, rows: Tensor) -> Tensor:
    """These rows, in the memory format that they have."""
    if crops.ndim == 4 and crops.is_contiguous(memory_format=torch.channels_last):
        return crops.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
    return crops.index_select(0, rows)
