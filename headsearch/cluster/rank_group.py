"""The processes of one cohort on Ray: a place for each, reserved at once, and a task in it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from headsearch.cluster.engine import Message


class RankGroup:
    """The tasks that train one cohort together, numbered by rank from 0.

    The first is started at once. It listens at an address and says which, and the others are then
    told to meet it there. All places are reserved before any of them begins, on as few machines as
    possible, so that two cohorts that wait for each other's last GPU cannot occur.

    Args:
        ray: the module.
        perform: the remote function.
        order: what the cohort's task is told.
        bundle: what each process takes.
        selector: a label selector that machines must fulfil; None for any machine.

    Attributes:
        others: the streams of all tasks but the first, each with its first message once it has
            begun.
    """

    def __init__(
        self,
        ray: Any,
        perform: Any,
        order: Message,
        bundle: Mapping[str, int],
        selector: Mapping[str, str] | None,
    ) -> None:
        self._ray, self._perform, self._order = ray, perform, order
        self._groups = importlib.import_module("ray.util.placement_group")
        self.others: dict[Any, Message] = {}
        count = order["processes"]
        places = {} if selector is None else {"bundle_label_selector": [dict(selector)] * count}
        self._group = self._groups.placement_group([dict(bundle)] * count, "PACK", **places)

    def start_first(self) -> Any:
        """Starts the first task; returns its stream."""
        return self._start(0)

    def start_others(self, meeting: Sequence[Any]) -> None:
        """Starts the others, which meet the first one at this address and port."""
        for rank in range(1, self._order["processes"]):
            self.others[self._start(rank, meeting=meeting)] = {}

    def end(self) -> None:
        """Ends all tasks but the first by force, and gives the places back."""
        for stream in self.others:
            self._ray.cancel(stream, force=True)
        self.others.clear()
        with suppress(self._ray.exceptions.RayError):  # the head may be gone
            self._groups.remove_placement_group(self._group)

    def _start(self, rank: int, **more: Any) -> Any:
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        place = strategies.PlacementGroupSchedulingStrategy(
            self._group, placement_group_bundle_index=rank
        )
        order = json.dumps({**self._order, **more, "rank": rank})
        return self._perform.options(scheduling_strategy=place).remote(order)
