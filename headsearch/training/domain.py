"""`with_domain`: which domain a run is of, and whether its settings fit that domain."""

from __future__ import annotations

from headsearch.config.domains import AUTO
from headsearch.config.input_shape import InputShape
from headsearch.config.settings import RunConfig
from headsearch.data.domains import domain_of, found_domain
from headsearch.training.inputs import InMemoryInputs

_ANY_SHAPE = InputShape.square(64)
"""For settings whose names and values are checked before the inputs are known."""


def with_domain(config: RunConfig, inputs: InMemoryInputs) -> RunConfig:
    """The settings with the domain that the files of --data show in place of `auto`.

    A space that is not given becomes that of the domain.

    Raises:
        UserError: a setting is for another domain, or `--views` is.
    """
    if config.domain == AUTO:
        found = found_domain(config.data if inputs.data is None else inputs.data)
        config = config.model_copy(update={"domain": found})
    domain = domain_of(config)
    if "space" not in config.model_fields_set and inputs.space is None:
        config = config.model_copy(update={"space": domain.space})
    domain.check(config)
    shape = domain.shape_of(config) or _ANY_SHAPE
    domain.views(config, shape)  # raises if views and objective do not fit together
    return config
