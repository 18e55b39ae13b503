"""`with_domain`: which domain a run is of, and whether its settings fit that domain."""

from __future__ import annotations

from headsearch.config.domains import AUTO, TEXT
from headsearch.config.input_shape import InputShape
from headsearch.config.settings import RunConfig
from headsearch.data.domain import Domain
from headsearch.data.domains import DOMAINS, domain_of, found_domain
from headsearch.errors import UserError
from headsearch.models.bases import BasePlan, is_text_base
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
        found = found_domain(config.data if inputs.data is None else inputs.data, config.base)
        config = config.model_copy(update={"domain": found})
    domain = domain_of(config)
    if (domain.name == TEXT) != _takes_texts(config, inputs):
        raise UserError(
            f"--domain {domain.name} and --base {config.base} do not fit together: texts need a "
            "base of transformers (hf:bert-base-uncased), and only texts do"
        )
    if "space" not in config.model_fields_set and inputs.space is None:
        config = config.model_copy(update={"space": domain.space})
    for other in DOMAINS.values():
        if other is not domain:
            _refuse_settings_of(other, config)
    domain.check(config)
    shape = domain.shape_of(config) or _ANY_SHAPE
    domain.views(config, shape)  # raises if views and objective do not fit together
    return config


def _takes_texts(config: RunConfig, inputs: InMemoryInputs) -> bool:
    """Whether the base of a run takes texts."""
    if isinstance(inputs.base, BasePlan):
        return inputs.base.input_shape.vocabulary > 0
    return inputs.base is None and is_text_base(config.base)


def _refuse_settings_of(other: Domain, config: RunConfig) -> None:
    """Raises UserError for the first setting that has a value, but is for another domain."""
    for name in other.settings:
        if getattr(config, name) != RunConfig.model_fields[name].default:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(
                f"{flag} is for --domain {other.name}: leave it out, or name data of that"
            )
