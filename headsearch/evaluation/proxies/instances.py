"""Which part of a box its object covers: a linear probe on the tokens within true boxes.

Shapes: B images, D width, H × W the grid, K objects, A = 14 the side of an aligned region, F
features of a position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from headsearch.data.dense import Objects
from headsearch.evaluation.proxies.dense_task import Statistic
from headsearch.evaluation.proxies.grids import cell_centres, in_cells, polynomials, regions_of
from headsearch.evaluation.proxies.linear import fit_softmax
from headsearch.evaluation.proxies.regions import share

SIDE = 14
"""Of a region, as in Mask R-CNN (arXiv 1703.06870); its masks are twice as fine."""
LEAST_CELLS = 4
"""Objects in boxes of no more cells are left out: a grid cannot show their outline."""
L2 = 1e-4
MAX_ITERATIONS = 40


class InstanceMasks:
    """The mask probe for one data set and grid.

    Args:
        train, evaluation: the objects of each image.
        group_N: the group of each evaluation image.
        grid: H × W.
        samples: the most training positions, spread over all objects.
        device: of the features.
    """

    columns: tuple[str, ...] = ("mask_iou",)

    def __init__(
        self,
        train: Sequence[Objects],
        evaluation: Sequence[Objects],
        group_N: Tensor,
        grid: tuple[int, int],
        samples: int,
        device: torch.device,
    ) -> None:
        self.group_N, self.device = group_N, device
        self.positions_AAF = polynomials(
            *(cell_centres((SIDE, SIDE)) / SIDE * 2 - 1).unbind(1)
        ).view(SIDE, SIDE, -1)
        self._train = [_usable(each, grid) for each in train]
        self.evaluation = [_usable(each, grid) for each in evaluation]
        generator = torch.Generator().manual_seed(0)
        objects = sum(len(boxes) for boxes, _ in self._train)
        each = max(1, min(SIDE * SIDE, samples // max(1, objects)))
        self._taken, covered = [], []
        for boxes, masks in self._train:
            draws = torch.rand(len(boxes), SIDE * SIDE, generator=generator)
            taken_KT = draws.argsort(dim=1)[:, :each]
            self._taken.append(taken_KT)
            # The mask is twice as fine: a position is covered if most of its four parts are.
            coarse_K = F.avg_pool2d(masks[:, None].float(), 2).flatten(1) >= 0.5
            covered.append(coarse_K.gather(1, taken_KT).flatten())
        self.covered_N = torch.cat(covered).to(device)

    @property
    def possible(self) -> bool:
        """Whether training positions both inside and outside of objects are known."""
        inside = int(self.covered_N.sum())
        return 0 < inside < len(self.covered_N) and any(len(b) for b, _ in self.evaluation)

    def rows(self, map_BDHW: Tensor, images: range) -> Tensor:
        """Tokens and positions of the sampled positions of these images' objects: (n, D + F)."""
        boxes = [self._train[i][0] for i in images]
        aligned_KDA = aligned(map_BDHW, boxes).flatten(2)
        taken_KT = torch.cat([self._taken[i] for i in images]).to(map_BDHW.device)
        index = taken_KT[:, None].expand(-1, aligned_KDA.shape[1], -1)
        tokens = aligned_KDA.gather(2, index).transpose(1, 2).flatten(0, 1)
        positions = self.positions_AAF.flatten(0, 1).to(tokens.device)[taken_KT.flatten()]
        return torch.cat([tokens, positions], dim=1)

    def fit(self, rows_ND: Tensor) -> FittedMasks:
        """Fits the logistic regression."""
        return FittedMasks(self, rows_ND)


def _usable(objects: Objects, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes in cells and masks of the objects of an image that are large enough."""
    boxes = in_cells(objects.boxes, grid)
    if objects.masks is None:
        return boxes[:0], torch.zeros(0, 2 * SIDE, 2 * SIDE, dtype=torch.bool)
    large = (boxes[:, 2:] - boxes[:, :2]).prod(1) > LEAST_CELLS
    kept = large & ~objects.ignored & objects.masks.flatten(1).any(1)
    return boxes[kept], objects.masks[kept]


def aligned(map_BDHW: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """RoIAlign 14×14 of the map in each box: (K, D, 14, 14)."""
    regions = regions_of(boxes).to(map_BDHW.device)
    regions_KDAA: Tensor = roi_align(map_BDHW.float(), regions, SIDE, aligned=True)
    return regions_KDAA


class FittedMasks:
    """The mask probe on one representation."""

    def __init__(self, task: InstanceMasks, rows_ND: Tensor) -> None:
        self._task = task
        covered_N = task.covered_N.float()
        targets_2N = torch.stack([1 - covered_N, covered_N])
        fit = fit_softmax(rows_ND, targets_2N, L2, MAX_ITERATIONS, coarse=True)
        matrix_2D, offset_2 = fit.affine()
        weight_D, self._bias = matrix_2D[1] - matrix_2D[0], offset_2[1] - offset_2[0]
        features = task.positions_AAF.shape[-1]
        self._of_token = weight_D[:-features]
        of_position = weight_D[-features:]
        self._position_AA = task.positions_AAF.to(weight_D.device) @ of_position
        self._overlaps: list[Tensor] = []
        self._groups: list[Tensor] = []

    def observe(self, map_BDHW: Tensor, images: range) -> None:
        """Predicts the masks of the objects of these images."""
        usable = [self._task.evaluation[i] for i in images]
        # The probe is linear, and so is RoIAlign: one channel of logits is aligned, not D.
        logits_B1HW = torch.einsum("bdhw,d->bhw", map_BDHW.float(), self._of_token)[:, None]
        logits_K1AA = aligned(logits_B1HW, [boxes for boxes, _ in usable])
        logits_K1AA = logits_K1AA + self._position_AA + self._bias
        truth = torch.cat([masks for _, masks in usable]).to(map_BDHW.device)
        predicted = (
            F.interpolate(logits_K1AA, 2 * SIDE, mode="bilinear", align_corners=False)[:, 0] > 0
        )
        shared = (predicted & truth).flatten(1).sum(1)
        union = (predicted | truth).flatten(1).sum(1)
        self._overlaps.append((shared / union.clamp_min(1)).cpu().double())
        for image, (boxes, _) in zip(images, usable, strict=True):
            self._groups.append(self._task.group_N[image].expand(len(boxes)))

    def statistics(self) -> Mapping[str, Statistic]:
        """The mean IoU of objects' masks within their true boxes."""
        return {"mask_iou": share(torch.cat(self._overlaps), torch.cat(self._groups))}
