"""`members_of`: where the files in a tar lie, from its headers; kept on disk for large tars.

Reading a header takes some 0.05 ms, a minute for a million members. So the index of a tar with many
members is kept under the user's cache folder, by the tar's path, size and time of change.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from headsearch.data.image.byte_ranges import first_line, is_url, open_binary
from headsearch.data.image.suffixes import is_hidden
from headsearch.errors import UserError

KEPT_FROM = 5_000
"""The index of a tar with fewer members is not kept: it is read in a moment."""
_FORMAT = 1


@dataclass
class Members:
    """The files in one tar: where their bytes lie, by name.

    Attributes:
        places: offset and size in bytes, by name.
        repeated: the number of members whose name occurred before; the last one counts.
        nested: whether some of them lie in a tar inside the tar.
    """

    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    repeated: int = 0
    nested: bool = False

    def add(self, name: str, offset: int, size: int) -> None:
        self.repeated += name in self.places
        self.places[name] = offset, size


def members_of(tar: str, name: str) -> Members:
    """The members of a tar, and of the tars in it.

    Args:
        tar: a path or a URL.
        name: what the user called it.

    Raises:
        UserError: it cannot be read, is cut short or is compressed.
    """
    try:
        kept = None if is_url(tar) else _kept_in(Path(tar))
        members = None if kept is None else _kept(kept)
        if members is None:
            members = _read(tar)
            if kept is not None and len(members.places) >= KEPT_FROM:
                _keep(members, kept)
    except tarfile.TarError as error:
        raise UserError(
            f"{name} cannot be read as a tar ({error}); it must be complete and not compressed"
        ) from error
    except OSError as error:
        verb = "reached" if is_url(tar) else "read"
        raise UserError(f"{name} cannot be {verb}: {error.strerror or first_line(error)}") from None
    return members


def _read(tar: str) -> Members:
    members = Members()
    with open_binary(tar) as file:
        inner = _read_headers(file, members, "", None)
    for stem, (offset, size) in inner.items():
        members.nested = True
        with open_binary(tar) as file:
            file.seek(offset)
            _read_headers(file, members, f"{stem}/", offset + size)
    return members


def _read_headers(
    file: IO[bytes], members: Members, prefix: str, end: int | None
) -> dict[str, tuple[int, int]]:
    """Adds the files of a tar to the members.

    Args:
        file: stands at the start of the tar.
        members: gets the files.
        prefix: what their names get in front.
        end: where the tar ends; None for the end of the file.

    Returns:
        The tars in it, by their names without suffix: offset and size.
    """
    inner = {}
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for info in tar:
            tar.members = []  # type: ignore[attr-defined]  # it would keep every header
            path = PurePosixPath(info.name)
            if any(map(is_hidden, path.parts)):
                continue
            if end is not None and info.offset_data + info.size > end:
                break
            linked = prefix + str(PurePosixPath(info.linkname))
            if info.islnk() and linked in members.places:
                # the same file under a second name
                members.add(prefix + str(path), *members.places[linked])
            elif info.isreg() and path.suffix == ".tar" and not prefix:
                inner[str(path.with_suffix(""))] = info.offset_data, info.size
            elif info.isreg():
                members.add(prefix + str(path), info.offset_data, info.size)
            # other links and devices have no content in the archive
    return inner


def _kept_in(tar: Path) -> Path:
    """The file that keeps the index of a tar as it is now."""
    status = tar.stat()
    identity = f"{_FORMAT}\0{tar.absolute()}\0{status.st_size}\0{status.st_mtime_ns}"
    folder = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    name = hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()
    return Path(folder).expanduser() / "headsearch" / "tars" / f"{name}.npz"


def _kept(file: Path) -> Members | None:
    """The index in a file; None if there is none, or none that can be used."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            names = arrays["names"].tobytes().decode(errors="surrogateescape").split("\0")
            places = list(zip(arrays["offsets"].tolist(), arrays["sizes"].tolist(), strict=True))
            repeated, nested = arrays["facts"].tolist()
        return Members(dict(zip(names, places, strict=True)), repeated, bool(nested))
    except Exception:  # missing or damaged in any way: it is made anew
        return None


def _keep(members: Members, file: Path) -> None:
    """Writes an index; a full disk or a folder that may not be written costs only the time."""
    names = "\0".join(members.places).encode(errors="surrogateescape")
    places = np.array(list(members.places.values()), dtype=np.int64)
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        # Written under another name first: several processes may do this at once.
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".npz", delete=False) as part:
            written = Path(part.name)
            try:
                np.savez(
                    part,
                    names=np.frombuffer(names, dtype=np.uint8),
                    offsets=places[:, 0],
                    sizes=places[:, 1],
                    facts=np.array([members.repeated, members.nested], dtype=np.int64),
                )
                part.close()
                written.replace(file)
            except BaseException:
                written.unlink(missing_ok=True)
                raise
