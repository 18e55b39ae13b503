"""Pooled features of the base and of several heads, computed in one pass over the images.

Shapes: P probe images, N images or tokens, B images of a batch, D width, H × W the grid of a map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

from headsearch.config.normalization import IMAGENET, Normalization
from headsearch.data import Images
from headsearch.data.domains import DOMAINS
from headsearch.device import mixed_precision
from headsearch.evaluation.similarity import pooled_map
from headsearch.models.bases import BaseOutput
from headsearch.models.heads.padding import masked_mean
from headsearch.models.network import AttachedHead, Network, failing_as, tokens_of, valid_on

PROBE_IMAGES = 512
"""At most so many images, the first queries, are used to measure discrepancy: its cost grows with
the square of their number."""


POOLED_NUMBERS = 2**26
"""At most so many pooled features are held in memory: 256 MiB. If the heads need more, they are
scored in groups, and the base processes the images once per group."""


class Evaluated(Protocol):
    """What features are computed of: the queries, and the bank where there is one."""

    @property
    def domain(self) -> str: ...
    @property
    def queries(self) -> Images: ...
    @property
    def bank(self) -> Images | None: ...


class RungFeatures:
    """Pooled features of the base and of some heads, on queries and bank in this order.

    Call `base_on_probe`, then `head_on_probe` for each head, then `finish`. In this order each head
    processes each image once, although its tokens on the probe images are needed in addition to the
    pooled features.

    Args:
        network: in evaluation mode.
        data: bank and queries are used.
        names: the heads.
        batch_size: images in a forward pass.
        summary: from the base's output to the features (B, D) that represent an image in the base's
            scores.
        autocast: whether matrix products run in bfloat16.
        normalization: that of the images that the base was trained with.
    """

    def __init__(
        self,
        network: Network,
        data: Evaluated,
        names: Sequence[str],
        batch_size: int,
        summary: Callable[[BaseOutput], Tensor],
        *,
        autocast: bool,
        normalization: Normalization = IMAGENET,
    ) -> None:
        self._normalization = normalization
        self._network, self._data, self._batch_size = network, data, batch_size
        self._domain = DOMAINS[data.domain]
        self._summary, self._autocast = summary, autocast
        self._device = next(network.parameters()).device
        self._heads = {name: network.heads[name] for name in names}
        self._base_pooled: list[Tensor] = []
        self._map_pooled: list[Tensor] = []
        self._valid_on_probe: list[Tensor | None] = []  # of each batch
        self._head_pooled: dict[str, list[Tensor]] = {name: [] for name in names}

    def base_on_probe(self) -> dict[int, Tensor]:
        """The base's maps (P, D, H, W) on the probe images, by feature index."""
        maps: dict[int, list[Tensor]] = {
            feature_index: [] for feature_index in self._network.feature_indices
        }
        for images in batches(self._data.queries, self._batch_size, last=PROBE_IMAGES):
            base = self._base(images)
            for feature_index, map_BDHW in base.maps_BDHW.items():
                maps[feature_index].append(map_BDHW)
            self._valid_on_probe.append(base.valid)
        return {feature_index: torch.cat(parts) for feature_index, parts in maps.items()}

    def head_on_probe(self, name: str, maps_PDHW: Mapping[int, Tensor]) -> Tensor:
        """A head's tokens (P, N, D) on the probe images, before its norm.

        Args:
            name: of the head.
            maps_PDHW: from `base_on_probe`.
        """
        head, tokens = self._heads[name], []
        parts = maps_PDHW[head.feature_index].split(self._batch_size)
        for map_BDHW, valid_BHW in zip(parts, self._valid_on_probe, strict=True):
            valid_BHW = valid_on(map_BDHW, valid_BHW)
            with failing_as(name, map_BDHW), mixed_precision(self._device, self._autocast):
                tokens_BND = head.tokens(map_BDHW, valid_BHW)
                normed_BND = head.norm(tokens_BND)
            self._head_pooled[name].append(masked_mean(normed_BND, valid_BHW).float())
            tokens.append(tokens_BND.float())
        return torch.cat(tokens)

    def windows(self, tokens_PND: Tensor) -> Tensor:
        """Tokens of probe samples, cut to one length where some of their maps hold padding.

        Padded maps would measure lengths: two texts of one length look alike, whatever they say. So
        samples that are shorter than the median are left out, and longer ones are cut.

        Args:
            tokens_PND: of all probe samples, on the grid of the base's last map.
        """
        if not self._valid_on_probe or self._valid_on_probe[0] is None:
            return tokens_PND
        valid = torch.cat([part for part in self._valid_on_probe if part is not None])
        lengths_P = valid.flatten(1).sum(dim=1)
        length = int(lengths_P.median())
        return tokens_PND[lengths_P >= length, :length]

    def finish(self, *, probed: bool = True) -> Iterator[float]:
        """Runs base and heads on all other images; yields the share of each batch in these images.

        Args:
            probed: whether the probe images, the first queries, are done already.
        """
        queries, bank, size = self._data.queries, self._data.bank, self._batch_size
        first = PROBE_IMAGES if probed else 0
        others = max(0, len(queries) - first) + (len(bank) if bank is not None else 0)
        for images in chain(batches(queries, size, first=first), batches(bank, size)):
            base = self._base(images)
            for name, head in self._heads.items():
                map_BDHW = base.maps_BDHW[head.feature_index]
                valid_BHW = valid_on(map_BDHW, base.valid)
                with failing_as(name, map_BDHW), mixed_precision(self._device, self._autocast):
                    tokens_BND = head(map_BDHW, valid_BHW)
                self._head_pooled[name].append(masked_mean(tokens_BND, valid_BHW).float())
            yield len(images) / others

    def base(self) -> Tensor:
        """The pooled features of the base: (N, D), queries before bank."""
        return torch.cat(self._base_pooled)

    def base_map(self) -> Tensor:
        """The base's last map, pooled as a head's output is: (N, D), queries before bank."""
        return torch.cat(self._map_pooled)

    def head(self, name: str) -> Tensor:
        """The pooled features of a head: (N, D), queries before bank."""
        return torch.cat(self._head_pooled[name])

    def _base(self, images: Tensor) -> BaseOutput:
        """The base's output for a batch; stores its summary."""
        images = self._domain.as_input(images.to(self._device), self._normalization)
        with mixed_precision(self._device, self._autocast):
            base: BaseOutput = self._network.base(
                images, feature_indices=self._network.feature_indices
            )
        self._base_pooled.append(self._summary(base).float())
        self._map_pooled.append(pooled_map(tokens_of(base.maps_BDHW[0]), base.valid))
        return base


def head_groups(heads: Mapping[str, AttachedHead], data: Evaluated) -> list[list[str]]:
    """Groups of heads whose pooled features fit into memory; one empty group without heads.

    Args:
        heads: by name.
        data: what their features are computed of.
    """
    samples = len(data.queries) + (len(data.bank) if data.bank is not None else 0)
    widest = max((head.norm.weight.numel() for head in heads.values()), default=1)
    names, at_once = list(heads), max(1, POOLED_NUMBERS // (samples * widest))
    return [names[begin : begin + at_once] for begin in range(0, len(names), at_once)] or [[]]


def batches(
    images: Images | None, batch_size: int, first: int = 0, last: int | None = None
) -> Iterator[Tensor]:
    """The images `first` to `last` − 1 in batches (B, 3, S, S) uint8; none if `images` is None."""
    indices = torch.arange(len(images) if images is not None else 0)[first:last]
    if images is not None and len(indices):
        for batch_indices in indices.split(batch_size):
            yield images.batch(batch_indices)
