"""Objects that a Python caller passes in place of names: a base module, data sets, a space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from headsearch.data import DatasetSource, Source
from headsearch.errors import UserError
from headsearch.models.bases import (
    BasePlan,
)
from headsearch.models.space import Space


@dataclass(frozen=True)
class InMemoryInputs:
    """What a Python caller hands over itself; the setting of the same name then only labels it.

    Attributes:
        base: a module of the caller's own, or a base that is fitted already.
    """

    base: nn.Module | BasePlan | None = None
    data: Source | None = None
    eval_data: Source | None = None
    space: Space | None = None

    @property
    def names(self) -> list[str]:
        """Which settings cannot be read back from a file of settings."""
        own_base = isinstance(self.base, nn.Module)
        return [
            name
            for name in ("base", "data", "eval_data", "space")
            if getattr(self, name) is not None and (name != "base" or own_base)
        ]


NO_INPUTS = InMemoryInputs()


def check_inputs(path: Path, config: Mapping[str, Any], inputs: InMemoryInputs, how: str) -> None:
    """Raises UserError where a run was given something in Python that it is not given again.

    Args:
        config: what its config.yaml holds.
        how: the function that takes it again.
    """
    for name in config.get("given", []):
        if getattr(inputs, name) is None:
            raise UserError(
                f"{path}: its {name} was given in Python; give it again there: "
                f"headsearch.{how}(…, {name}=…)"
            )


def inputs_from(base: Any, data: Any, eval_data: Any) -> InMemoryInputs:
    """The objects among these, where a name is not one."""
    if base is not None and not isinstance(base, str | nn.Module):
        raise UserError(f"base must be a name or a torch.nn.Module, but is a {type(base).__name__}")
    return InMemoryInputs(
        base=base if isinstance(base, nn.Module) else None,
        data=_source(data),
        eval_data=_source(eval_data),
    )


def _source(data: Any) -> Source | None:
    if data is None or isinstance(data, str | Path):
        return None
    return data if isinstance(data, Source) else DatasetSource(data)
