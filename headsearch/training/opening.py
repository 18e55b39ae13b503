"""`open_data_of`: opens the data that the settings of a run name."""

from __future__ import annotations

from functools import partial

from headsearch import torchrun
from headsearch.config.base_names import folder_of, takes_waveforms
from headsearch.config.settings import RunConfig
from headsearch.data import Data, DataSettings, open_data
from headsearch.data.domains import domain_of
from headsearch.data.factory import BUILT_IN, BUILT_IN_FULL
from headsearch.data.settings import AudioSettings, TextSettings
from headsearch.data.sharing import Share
from headsearch.runs.console import Loading
from headsearch.training import distributed
from headsearch.training.inputs import InMemoryInputs

CPU_IMAGE_SIZE, ACCELERATOR_IMAGE_SIZE = 64, 224
"""The largest image side in pixels that is chosen if `--image-size` is not given."""


def open_data_of(
    config: RunConfig,
    inputs: InMemoryInputs,
    loading: Loading,
    *,
    accelerator: bool,
) -> Data:
    """Opens, splits and decodes the data of a run.

    Args:
        config: the settings, with the domain.
        inputs: objects that a Python caller passes in place of names.
        loading: told what is being loaded.
        accelerator: whether images may be as large as an accelerator can afford.

    Raises:
        UserError: the data cannot be used.
    """
    if inputs.opened is not None:
        return inputs.opened
    loading(f"opening the data {config.data}")
    return open_data(
        config.data if inputs.data is None else inputs.data,
        config.eval_data if inputs.eval_data is None else inputs.eval_data,
        data_settings(config, accelerator=accelerator),
        partial(loading, f"decoding {domain_of(config).words.samples} of {config.data}"),
        Share(
            torchrun.rank(), torchrun.count(), distributed.gather_objects, distributed.gather_rows
        ),
    )


def data_settings(config: RunConfig, *, accelerator: bool) -> DataSettings:
    """The settings of `open_data`; see `open_data_of`."""
    return DataSettings(
        image_size=config.image_size,
        images=config.images or (BUILT_IN_FULL if config.data == BUILT_IN else 0),
        eval_images=config.eval_images,
        bank_images=config.bank_images,
        probe_classes=config.probe_classes,
        seed=config.seed if config.data_seed is None else config.data_seed,
        max_image_size=ACCELERATOR_IMAGE_SIZE if accelerator else CPU_IMAGE_SIZE,
        data_dir=config.data_dir,
        download=config.download,
        max_bad_images=config.max_bad_images,
        memory_limit=int(config.memory * 2**30),
        store_size=config.store_size,
        check=config.check_images,
        labels=config.labels,
        domain=config.domain,
        audio=AudioSettings(
            config.sample_rate,
            config.clip_seconds,
            config.window_ms,
            config.hop_ms,
            config.mels,
            takes_waveforms(config.base),
        ),
        text=TextSettings(
            config.text_tokens,
            config.vocab_size,
            config.text_column,
            config.label_column,
            folder_of(config.base),
        ),
    )
