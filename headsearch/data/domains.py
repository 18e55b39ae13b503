"""`DOMAINS`: the domains by name, and which of them the files of `--data` belong to."""

from __future__ import annotations

import itertools
import tarfile
from collections.abc import Iterator
from pathlib import Path

from headsearch.config.base_names import domain_of_base
from headsearch.config.domains import AUDIO, AUTO, IMAGE, TEXT
from headsearch.config.settings import RunConfig
from headsearch.data.audio_domain import AudioDomain
from headsearch.data.domain import Domain
from headsearch.data.file_kinds import CLIPS, IMAGES
from headsearch.data.image.readers import files_below, tarfile_like
from headsearch.data.image.suffixes import is_hidden
from headsearch.data.image_domain import ImageDomain
from headsearch.data.split_folders import folder_of
from headsearch.data.text_domain import TextDomain

DOMAINS: dict[str, Domain] = {IMAGE: ImageDomain(), AUDIO: AudioDomain(), TEXT: TextDomain()}

LOOKED_AT = 1000
"""The most files that are looked at to find the domain."""


def domain_of(config: RunConfig) -> Domain:
    """The domain of a run; that of images before it is found (`auto`)."""
    return DOMAINS[IMAGE if config.domain == AUTO else config.domain]


def found_domain(data: object, base: str = "") -> str:
    """The domain of the data that `--data` names, by the base, or by the suffixes of its files.

    A base of transformers decides it: tables and lists of texts look like those of images.
    Only folders and tars on this machine are looked into. What is unclear counts as images, whose
    readers say what is wrong.
    """
    decided = domain_of_base(base)
    if decided is not None:
        return decided
    files = itertools.islice(_files(data), LOOKED_AT) if isinstance(data, str) else ()
    clips = images = 0
    for file in files:
        clips += CLIPS.includes(file)
        images += IMAGES.includes(file)
    return AUDIO if clips > images else IMAGE


def _files(data: str) -> Iterator[str]:
    """The names of the files in a folder or a tar, and in the first tar of a folder of tars."""
    folder = folder_of(data)
    if folder is not None:
        archives = []
        for file in files_below(folder):
            if tarfile_like(file):
                archives.append(file)
            yield file
        yield from _members(folder / archives[0]) if archives else ()
    elif tarfile_like(data):
        yield from _members(Path(data).expanduser())


def _members(tar: Path) -> Iterator[str]:
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                if member.isfile() and not is_hidden(Path(member.name).name):
                    yield member.name
    except (OSError, tarfile.TarError, ValueError):
        return
