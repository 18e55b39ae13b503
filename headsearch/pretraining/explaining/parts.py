"""What is measured of one base: parts that are cached, each a mapping of tensors.

Dimensions: P probe images, Q queries, N images or tokens, D width, C classes, G images of the
gallery, F frequencies, R rows of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from headsearch.config.domains import AUDIO, IMAGE, TEXT
from headsearch.data import Data
from headsearch.data.image.synthetic.scenes import Scenes
from headsearch.evaluation.features import PROBE_IMAGES
from headsearch.evaluation.interpretation.clip_cues import CLIP_CUES
from headsearch.evaluation.interpretation.cues import CUES
from headsearch.evaluation.interpretation.evidence import evidence_on, token_shares
from headsearch.evaluation.interpretation.frequency import log_amplitudes
from headsearch.evaluation.interpretation.reach import attention_distances, field_radii
from headsearch.evaluation.interpretation.text_cues import TEXT_CUES
from headsearch.evaluation.interpretation.toward_head import token_rows
from headsearch.evaluation.interpretation.waveform_cues import WAVEFORM_CUES
from headsearch.evaluation.proxies.labelled import LabelledImages
from headsearch.evaluation.proxies.linear import fit_softmax
from headsearch.evaluation.similarity import gram, map_features, pooled_map
from headsearch.models.network import AttachedHead, tokens_of
from headsearch.pretraining.explaining.forward import Forward

ROWS = 4096
"""Rows of tokens that the ridge regression toward a head uses, over all images."""
REACH_IMAGES = 64
"""Images for attention distances and receptive fields; both hardly differ between images."""
GALLERY = 8
"""Images whose tokens are shown."""
CUES_OF: Mapping[str, Mapping[str, Callable[[Tensor], Tensor]]] = {
    IMAGE: CUES,
    AUDIO: CLIP_CUES,
    TEXT: TEXT_CUES,
}
"""The cues that are taken away from the samples of a domain."""


@dataclass(frozen=True)
class Measured:
    """A base, its head if it is needed, and the images, as the parts need them.

    Attributes:
        forward: the base.
        head: its head; None if that is not in question or was not kept.
        data: bank and queries.
        domain: the kind of data.
        sequence: whether columns of the inputs are time steps.
        grid: rows and columns of the base's last map.
        head_grid: those of the map that the head was built for.
        labelled: labels of bank and queries, on the CPU.
        scenes: scenes with masks of their labelled objects, if the data are the built-in ones.
        before: the tensors of a part of the same base that is measured already.
    """

    forward: Forward
    head: AttachedHead | None
    data: Data
    domain: str
    sequence: bool
    grid: tuple[int, int]
    head_grid: tuple[int, int]
    labelled: LabelledImages
    scenes: Scenes | None
    before: Callable[[str], Mapping[str, Tensor]]

    @property
    def probe_images(self) -> int:
        """P, the number of queries whose token maps are compared."""
        return min(PROBE_IMAGES, len(self.data.queries))


def places(images: int, grid: tuple[int, int]) -> Tensor:
    """The places of the grid whose tokens are rows: the same for all bases and heads."""
    count = grid[0] * grid[1]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order[: max(1, min(count, ROWS // images))].sort().values


@torch.no_grad()
def blocks(of: Measured) -> dict[str, Tensor]:
    """Gram matrices, token rows, frequencies and the probes' predictions, by block.

    `gram.B` (P, P), `rows.B` (R, D), `frequency.B` (F,), `knn.B` and `linear.B` (Q,) int32, and
    `pooled` (Q + N, D) of the last block, queries first.
    """
    forward, data, count = of.forward, of.data, of.probe_images
    at = places(count, of.grid)
    pooled: dict[int, list[Tensor]] = {block: [] for block in range(1, forward.depth + 1)}
    rows: dict[int, list[Tensor]] = {block: [] for block in pooled}
    amplitudes: dict[int, Tensor] = {}
    seen = 0
    for batch in chain(forward.over(data.queries), forward.over(data.bank)):
        probes = max(0, min(len(batch), count - seen))
        for block, map_BDHW in forward.maps(batch).items():
            pooled[block].append(pooled_map(tokens_of(map_BDHW)).cpu())
            if probes:
                probe = map_BDHW[:probes].cpu()
                rows[block].append(token_rows(probe, of.grid, at))
                weighted = log_amplitudes(probe) * probes / count
                amplitudes[block] = amplitudes.get(block, torch.zeros(())) + weighted
        seen += len(batch)
    found = {f"gram.{block}": g for block, g in forward.grams(data.queries, count).items()}
    for block, parts in pooled.items():
        features = torch.cat(parts)
        found[f"rows.{block}"] = torch.cat(rows[block])
        found[f"frequency.{block}"] = amplitudes[block]
        found[f"knn.{block}"] = of.labelled.knn(features).int()
        found[f"linear.{block}"] = of.labelled.linear(features).int()
    return {**found, "pooled": torch.cat(pooled[forward.depth])}


@torch.no_grad()
def head(of: Measured) -> dict[str, Tensor]:
    """The trained head's tokens after its norm: `gram` (P, P) and `rows` (R, D)."""
    assert of.head is not None
    block = of.forward.depth - of.head.feature_index
    at = places(of.probe_images, of.grid)
    features, rows = [], []
    for batch in of.forward.over(of.data.queries, of.probe_images):
        map_BDHW = of.forward.maps(batch, [block])[block]
        tokens_BND = _head_tokens(of.head, map_BDHW, of.head_grid).float()
        features.append(map_features(tokens_BND))
        as_map = tokens_BND.transpose(1, 2).unflatten(2, map_BDHW.shape[-2:])
        rows.append(token_rows(as_map, of.grid, at).cpu())
    return {"gram": gram(torch.cat(features)).float().cpu(), "rows": torch.cat(rows)}


def _head_tokens(head: AttachedHead, map_BDHW: Tensor, grid: tuple[int, int]) -> Tensor:
    """A head's tokens (B, N, D) on a map, which is padded where the head was built for a longer."""
    length = map_BDHW.shape[3]
    missing = grid[1] - length if grid[0] == 1 == map_BDHW.shape[2] else 0
    if missing <= 0:
        tokens_BND: Tensor = head(map_BDHW)
        return tokens_BND
    padded_BDHW = torch.nn.functional.pad(map_BDHW, (0, missing))
    valid_BHW = torch.arange(grid[1], device=map_BDHW.device) < length
    tokens: Tensor = head(padded_BDHW, valid_BHW.expand(len(map_BDHW), 1, -1))
    return tokens[:, :length]


def reach(of: Measured) -> dict[str, Tensor]:
    """`field` (blocks,), empty for texts; `attention` likewise without timm's own attention."""
    forward = of.forward
    images = of.data.queries.batch(torch.arange(min(REACH_IMAGES, len(of.data.queries))))
    distances = attention_distances(forward.base.trunk, lambda: forward.maps(images), of.grid)
    none = torch.zeros(0, dtype=torch.float64)
    attention = none if distances is None else distances
    if of.domain == TEXT:  # tokens are no numbers that a gradient could belong to
        return {"field": none, "attention": attention}
    pixels = forward.pixels(images[: REACH_IMAGES // 2]).requires_grad_()
    maps = forward.maps_of(pixels)
    radii = field_radii([maps[block] for block in sorted(maps)], pixels, sequence=of.sequence)
    forward.on_images(len(images))
    return {"field": radii, "attention": attention}


@torch.no_grad()
def cues(of: Measured) -> dict[str, Tensor]:
    """The linear probe's classes on changed images: (R,) int32 by condition, of reported queries.

    The probe is that of the last block, fitted to the images as they are.
    """
    forward, report = of.forward, of.data.report
    matrix_CD, offset_C, present_C = probe(of)
    conditions = WAVEFORM_CUES if of.data.queries.shape.rate else CUES_OF.get(of.domain, {})
    found: dict[str, list[Tensor]] = {name: [] for name in conditions}
    for indices in report.split(forward.batch):
        images = of.data.queries.batch(indices)
        for name, changed in conditions.items():
            map_BDHW = forward.maps(changed(images), [forward.depth])[forward.depth]
            logits_BC = pooled_map(tokens_of(map_BDHW)).cpu() @ matrix_CD.T + offset_C
            found[name].append(present_C[logits_BC.argmax(1)].int())
        forward.on_images(len(images))
    return {name: torch.cat(parts) for name, parts in found.items()}


@torch.no_grad()
def looks(of: Measured) -> dict[str, Tensor]:
    """The gallery's tokens at the last block, (G, N, D), and the probe: matrix, offset, classes.

    The tokens are normalised as those whose mean the probe reads. `evidence` is empty, or (1,) with
    scenes: the mean share of the evidence for their class that lies on the labelled object.
    """
    images = of.data.queries.batch(gallery(of.data))
    tokens_GND = _last_tokens(of.forward, images)
    matrix_CD, offset_C, present_C = probe(of)
    evidence = torch.zeros(0, dtype=torch.float64)
    if of.scenes is not None:
        shares = []
        for batch in torch.arange(len(of.scenes.images)).split(of.forward.batch):
            tokens = _last_tokens(of.forward, of.scenes.images[batch])
            at = (present_C[None] == of.scenes.labels[batch][:, None]).int().argmax(1)
            object_BHW = (of.scenes.masks[batch] == 1).double()
            cover = torch.nn.functional.adaptive_avg_pool2d(object_BHW[:, None], of.grid)
            parts = token_shares(tokens, matrix_CD, offset_C, at)
            shares.append(evidence_on(parts, cover.flatten(1)))
            of.forward.on_images(len(batch))
        evidence = torch.cat(shares).nanmean().reshape(1)
    return {
        "tokens": tokens_GND, "matrix": matrix_CD, "offset": offset_C, "classes": present_C,
        "evidence": evidence,
    }  # fmt: skip


def _last_tokens(forward: Forward, images: Tensor) -> Tensor:
    """The normalised tokens (B, N, D) of images at the last block, on the CPU."""
    tokens_BND = tokens_of(forward.maps(images, [forward.depth])[forward.depth])
    normalised = torch.nn.functional.layer_norm(tokens_BND, (tokens_BND.shape[-1],))
    return normalised.cpu().contiguous()


def probe(of: Measured) -> tuple[Tensor, Tensor, Tensor]:
    """The linear probe of the last block: matrix (K, D), offset (K,), and the K classes."""
    bank = of.before("blocks")["pooled"][len(of.data.queries) :]
    present_K, target_N = torch.unique(of.labelled.bank_labels_N, return_inverse=True)
    target_KN = torch.nn.functional.one_hot(target_N, len(present_K)).T
    matrix_KD, offset_K = fit_softmax(bank, target_KN).affine()
    return matrix_KD, offset_K, present_K


def gallery(data: Data) -> Tensor:
    """Indices of the queries that are shown: reported ones, of as many classes as there are."""
    assert data.queries.labels is not None
    labels = data.queries.labels[data.report]
    first = [int((labels == label).nonzero()[0]) for label in labels.unique()]
    return data.report[torch.tensor(first[:GALLERY])]


PARTS: Mapping[str, Callable[[Measured], dict[str, Tensor]]] = {
    "blocks": blocks,
    "head": head,
    "reach": reach,
    "cues": cues,
    "looks": looks,
}
"""The parts by name, in the order in which they are measured."""
