"""`with_domain`: which domain a run is of, and whether its settings fit that domain."""

from __future__ import annotations

from headsearch.config.base_names import (
    TRANSFORMERS,
    WAVEFORM_TYPES,
    check_folder,
    domain_of_base,
    rate_of,
)
from headsearch.config.domains import AUDIO, AUTO, TEXT
from headsearch.config.input_shape import InputShape
from headsearch.config.settings import RunConfig
from headsearch.data.domain import Domain
from headsearch.data.domains import DOMAINS, domain_of, found_domain
from headsearch.errors import UserError
from headsearch.models.bases import BasePlan
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
    _check_base_of(domain, config, inputs)
    if "space" not in config.model_fields_set and inputs.space is None:
        config = config.model_copy(update={"space": domain.space})
    for other in DOMAINS.values():
        if other is not domain:
            _refuse_settings_of(other, config)
    domain.check(config)
    shape = domain.shape_of(config) or _ANY_SHAPE
    domain.views(config, shape)  # raises if views and objective do not fit together
    return _with_rate_of_base(config) if domain.name == AUDIO else config


def _check_base_of(domain: Domain, config: RunConfig, inputs: InMemoryInputs) -> None:
    """Raises UserError if the base of a run takes the data of another domain."""
    decided = _domain_of_base(config, inputs)
    if decided == domain.name or (decided is None and domain.name != TEXT):
        return
    check_folder(config.base)
    apart = f"--domain {domain.name} and --base {config.base} do not fit together"
    if decided is None:
        raise UserError(
            f"{apart}: texts need a base of transformers (hf:bert-base-uncased), and this is none"
        )
    if domain.name == AUDIO:
        known = ", ".join(f"{TRANSFORMERS}{kind}" for kind in WAVEFORM_TYPES)
        raise UserError(f"{apart}: the bases of transformers that take clips are {known}")
    takes = "waveforms of clips" if decided == AUDIO else "texts"
    raise UserError(
        f"{apart}: {config.base} takes {takes}; leave --domain out, or use another base"
    )


def _domain_of_base(config: RunConfig, inputs: InMemoryInputs) -> str | None:
    """The domain that the base of a run decides; None if it takes images, or maps of any kind."""
    if isinstance(inputs.base, BasePlan):
        shape = inputs.base.input_shape
        return TEXT if shape.vocabulary else AUDIO if shape.rate else None
    return domain_of_base(config.base) if inputs.base is None else None


def _with_rate_of_base(config: RunConfig) -> RunConfig:
    """The settings with the sample rate that the folder of the base names, if it names one.

    Raises:
        UserError: --sample-rate is another.
    """
    rate = rate_of(config.base)
    if rate is None:
        return config
    if config.sample_rate not in (None, rate):
        raise UserError(
            f"--sample-rate {config.sample_rate}: {config.base} takes {rate} samples per second "
            "(preprocessor_config.json): leave it out"
        )
    return config.model_copy(update={"sample_rate": rate})


def _refuse_settings_of(other: Domain, config: RunConfig) -> None:
    """Raises UserError for the first setting that has a value, but is for another domain."""
    for name in other.settings:
        if getattr(config, name) != RunConfig.model_fields[name].default:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(
                f"{flag} is for --domain {other.name}: leave it out, or name data of that"
            )
