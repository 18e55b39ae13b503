"""Which shards `wds/FOLDER#SPLIT` names; they are read by an index as other tars are."""

from __future__ import annotations

import json
from pathlib import Path

from headsearch.data.image.brace_lists import expand
from headsearch.data.image.layouts import of_split
from headsearch.data.image.readers import nearest
from headsearch.data.image.timm_readers import TimmSpec
from headsearch.errors import UserError


def shards_of(spec: TimmSpec) -> list[str]:
    """The shards that wds/FOLDER#SPLIT names.

    SPLIT is a brace list or a pattern, or a split that the folder's `_info.json` describes. Without
    it, and without such a file, all .tar files of the folder; if their names have splits, those of
    the role.

    Raises:
        UserError: there is no such folder, split or shard.
    """
    folder = Path(spec.name) if spec.data_dir is None else spec.data_dir / spec.name
    if not folder.is_dir():
        raise UserError(f"{spec.text}: no folder {str(folder)!r}{nearest(folder)}")
    described = next((f for n in ("_info.json", "info.json") if (f := folder / n).is_file()), None)
    if "#" in spec.text and ".tar" in spec.splits[0]:
        wanted = expand(spec.splits[0])
    elif described is not None:
        wanted = _described_shards(spec, described)
    elif "#" in spec.text:
        raise UserError(f"{spec.text}: name the shards, as in wds/FOLDER#train-{{0000..0012}}.tar")
    else:
        wanted = sorted(path.name for path in folder.glob("*.tar"))
        if not wanted:
            raise UserError(f"{spec.text}: no .tar shards in {str(folder)!r}")
        wanted, _ = of_split(wanted, spec.splits)
    shards: list[str] = []
    for name in wanted:
        found = sorted(folder.glob(name)) if "*" in name else [folder / name]
        if not found or not found[0].is_file():
            raise UserError(f"{spec.text}: no shard {name!r} in {str(folder)!r}")
        shards += map(str, found)
    return shards


def _described_shards(spec: TimmSpec, file: Path) -> list[str]:
    """The shards of a split by the folder's own description."""
    try:
        splits = json.loads(file.read_text(encoding="utf-8"))["splits"]
        found = next((splits[name]["filenames"] for name in spec.splits if name in splits), None)
        if found is None:
            raise UserError(f"{spec.text}: {file} has no split {' or '.join(spec.splits)}")
        return [each for name in found for each in expand(str(name))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{spec.text}: {file} does not describe splits and their files") from None
