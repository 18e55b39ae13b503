"""`Space`: the search space of a heads.yaml file; finds, reads, checks and hashes it.

A space is valid for any base; `Space.on(base)` resolves it on one (`resolved.py`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headsearch.config import formats
from headsearch.config.yaml_file import Located, located, read_yaml
from headsearch.errors import UserError, unknown
from headsearch.models.heads import FAMILIES
from headsearch.models.space.candidate import BaseShape
from headsearch.models.space.distributions import Distributions, count_points
from headsearch.models.space.parameters import CONTROLS, parameters_of, without_later
from headsearch.models.space.plugins import UserFamily, read_user_families, without_origins
from headsearch.models.space.reader import read_families
from headsearch.models.space.resolved import ResolvedSpace


@dataclass(frozen=True)
class Space:
    """A checked search space, for any base.

    Attributes:
        source: the name of the file as shown to the user.
        families, controls: the distributions of parameters by family or control.
        max_params, max_gflops: limits on the cost of a head, as fractions of the base's cost; None
            for no limit.
        from_elsewhere: the user-defined families by name.
    """

    source: str
    families: Mapping[str, Distributions]
    controls: Mapping[str, Distributions]
    max_params: float | None = None
    max_gflops: float | None = None
    from_elsewhere: Mapping[str, UserFamily] = field(default_factory=dict)

    def written(self) -> dict[str, Any]:
        """The space as a dict for YAML, in a fixed order, with defaults (see `without_later`).

        Saved as YAML and loaded again, it is the same space with the same hash.
        """
        limits = {"max_params": self.max_params, "max_gflops": self.max_gflops}
        return {
            "families": {
                name: {**self._origin(name), **distributions}
                for name, distributions in _written(self.families, self.from_elsewhere).items()
            },
            "controls": _written(self.controls),
            "constraints": {name: limit for name, limit in limits.items() if limit is not None},
        }

    def _origin(self, name: str) -> Mapping[str, str]:
        return self.from_elsewhere[name].origin if name in self.from_elsewhere else {}

    @property
    def hash(self) -> str:
        """12 hexadecimal digits that identify the content of the space.

        Comments, the order of keys and choices, spelled-out defaults and the path of the file do
        not change it. The content of a user's Python file does.
        """
        text = json.dumps(self.written(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def size(self) -> int | None:
        """The number of points before equal heads are merged; None if a range is dense."""
        everything = (*self.controls.values(), *self.families.values())
        counts = [count_points(distributions) for distributions in everything]
        return None if None in counts else sum(count for count in counts if count is not None)

    def on(self, base: BaseShape) -> ResolvedSpace:
        """Resolves the space on a base."""
        return ResolvedSpace(self, base)


def _written(
    families: Mapping[str, Distributions], from_elsewhere: Container[str] = ()
) -> dict[str, Any]:
    written = {
        family: {name: distributions[name].written() for name in sorted(distributions)}
        for family, distributions in families.items()
    }
    return {
        family: parameters if family in from_elsewhere else without_later(parameters)
        for family, parameters in written.items()
    }


def ready_spaces() -> dict[str, Path]:
    """The paths of the spaces that come with headsearch, by file name."""
    spec = importlib.util.find_spec("headsearch.search_spaces")
    if spec is not None and spec.submodule_search_locations is not None:
        folders = [Path(folder) for folder in spec.submodule_search_locations]
    else:  # in a source checkout the folder is next to the package
        folders = [Path(__file__).parents[3] / "search_spaces"]
    return {path.name: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def find_space(name: str) -> Path:
    """The file for `--space`: the path itself if it exists, else a ready-made space of this name.

    Raises:
        UserError: there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f"{name}: a directory; --space takes a YAML file")
    ready = ready_spaces()
    for ready_name in (name, f"{name}.yaml"):
        if ready_name in ready:
            return ready[ready_name]
    raise UserError(f"{name}: no such file, and {unknown('ready-made space', name, ready)}")


def as_space(space: str | Path | Mapping[str, Any] | Space) -> Space:
    """A space from what a Python caller passes: a file, a name, a dict like the YAML, or itself.

    Raises:
        UserError: there is no such space, or a mistake in it.
    """
    if isinstance(space, Space):
        return space
    if isinstance(space, str | Path):
        return load_space(find_space(str(space)))
    return read_space(located(space, "space"), "space")


def recorded_space(content: Mapping[str, Any], source: str) -> Space | None:
    """The space that a run recorded; None if it has families of the user's own.

    Such families are code, which only a file that the user placed there may bring along.

    Args:
        content: what `Space.written` gave.
        source: the name of the space as shown to the user.

    Raises:
        UserError: the content is not a valid space.
    """
    if any("module" in (entry or {}) for entry in content["families"].values()):
        return None
    return read_space(located(content, "space_content"), source)


def load_space(path: Path) -> Space:
    """Reads the search space in a YAML file; `search_spaces/heads.yaml` explains the format.

    The Python files of user-defined families that the space names are EXECUTED.

    Raises:
        UserError: the file is not a valid space; one line with file, line and what to do.
    """
    return read_space(read_yaml(path), str(path), path.parent)


def read_space(root: Located, source: str, folder: Path = Path()) -> Space:
    """Reads a search space from parsed YAML, or from a Python dict of the same form.

    Args:
        root: the parsed content.
        source: the name of the space as shown to the user.
        folder: the folder that paths of user-defined families are relative to.

    Raises:
        UserError: the content is not a valid space; one line with where and what to do.
    """
    written = root.mapping("a search space").get(formats.KEY)
    if written is not None:  # checked before the keys, since a later format may have other keys
        formats.check_format(written.plain(), formats.SPACE, written.where)
    known = (formats.KEY, "families", "controls", "constraints")
    entries = root.mapping("a search space", known)
    elsewhere = read_user_families(entries.get("families"), folder, {*FAMILIES, *CONTROLS})
    found = [family for family in FAMILIES.values() if not family.control]
    found += [user.family for user in elsewhere.values()]
    families = read_families(
        without_origins(entries.get("families"), elsewhere),
        "family",
        {family.name: parameters_of(family) for family in found},
        {name: f"{name!r} is a control: list it under `controls`" for name in CONTROLS},
    )
    # Without the key `controls`, all controls are included with defaults; `controls: []` is none.
    all_controls = Located(dict.fromkeys(CONTROLS, Located(None, root.where, {})), root.where, {})
    controls = read_families(entries.get("controls", all_controls), "control", CONTROLS, {})
    if not families and not controls:
        raise root.error("the space is empty: name at least one family under `families`")
    limits: dict[str, float] = {}
    if "constraints" in entries and entries["constraints"].value is not None:
        shares = ("max_params", "max_gflops")
        for name, node in entries["constraints"].mapping("constraints", shares).items():
            limits[name] = node.number(name)
            if limits[name] <= 0:
                raise node.error(f"{name} is a share of the base's and must be above 0")
    return Space(source, families, controls, **limits, from_elsewhere=elsewhere)
