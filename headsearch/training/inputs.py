"""Objects that a Python caller passes in place of names: a base module, data sets, a space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from headsearch.data import Data, DatasetSource, Source
from headsearch.errors import UserError
from headsearch.models.bases import (
    BasePlan,
)
from headsearch.models.space import Space
from headsearch.text import with_article


@dataclass(frozen=True)
class InMemoryInputs:
    """Objects that a Python caller passes; the setting of the same name is then only a label.

    Attributes:
        base: a module of the caller's own, or a base that is fitted already.
        data: the training images.
        eval_data: the evaluation images.
        space: the search space.
        opened: all data, opened already; for measurements alone.
    """

    base: nn.Module | BasePlan | None = None
    data: Source | None = None
    eval_data: Source | None = None
    space: Space | None = None
    opened: Data | None = None

    @property
    def names(self) -> list[str]:
        """The settings that config.yaml cannot hold, because an object was passed for them.

        A fitted base (`BasePlan`) is not among them: config.yaml records how it was built.
        """
        own_base = isinstance(self.base, nn.Module)
        return [
            name
            for name in ("base", "data", "eval_data", "space")
            if getattr(self, name) is not None and (name != "base" or own_base)
        ]


NO_INPUTS = InMemoryInputs()


def check_inputs(path: Path, config: Mapping[str, Any], inputs: InMemoryInputs, how: str) -> None:
    """Raises UserError if a run was started with an object in Python that is missing now.

    Args:
        path: the run directory, for the error message.
        config: the content of its config.yaml.
        inputs: the objects that were passed now.
        how: the function of the Python API that the objects can be passed to.
    """
    for name in config.get("given", []):
        if getattr(inputs, name) is None:
            raise UserError(
                f"{path}: its {name} was given in Python; give it again there: "
                f"headsearch.{how}(…, {name}=…)"
            )


def inputs_from(base: Any, data: Any, eval_data: Any) -> InMemoryInputs:
    """The objects among these arguments of the Python API; names are left to the settings.

    Raises:
        UserError: the base is neither a name nor a module.
    """
    if base is not None and not isinstance(base, str | nn.Module):
        raise UserError(
            f"base must be a name or a torch.nn.Module, but is {with_article(type(base).__name__)}"
        )
    return InMemoryInputs(
        base=base if isinstance(base, nn.Module) else None,
        data=_source(data),
        eval_data=_source(eval_data),
    )


def places_in(**arguments: Any) -> dict[str, str]:
    """The paths among the arguments of a function that resumes a run, by the name of the setting.

    They say where something lies now that was moved.
    """
    return {k: str(value) for k, value in arguments.items() if isinstance(value, str | Path)}


def _source(data: Any) -> Source | None:
    """The source of the images of a data set object; None for a name or a path."""
    if data is None or isinstance(data, str | Path):
        return None
    return data if isinstance(data, Source) else DatasetSource(data)
