"""The search space as written in heads.yaml: found, read, checked, hashed.

A space is written for any base; `Space.on(base)` resolves it on one (`resolved.py`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headsearch.config import formats
from headsearch.config.yaml_file import Located, located, read_yaml
from headsearch.errors import UserError, unknown
from headsearch.models.heads import FAMILIES
from headsearch.models.space.candidate import BaseShape
from headsearch.models.space.distributions import Knobs, count_points
from headsearch.models.space.parameters import CONTROLS, knobs_of
from headsearch.models.space.plugins import UserFamily, read_user_families, without_origins
from headsearch.models.space.reader import read_families
from headsearch.models.space.resolved import ResolvedSpace


@dataclass(frozen=True)
class Space:
    """A search space as written, checked, for any base.

    Attributes:
        source: the file's name as shown to the user.
        families, controls: by name, how their parameters vary.
        max_params, max_gflops: what a head may have at most, as a share of the base's.
        from_elsewhere: those of the families that are not headsearch's own.
    """

    source: str
    families: Mapping[str, Knobs]
    controls: Mapping[str, Knobs]
    max_params: float | None = None
    max_gflops: float | None = None
    from_elsewhere: Mapping[str, UserFamily] = field(default_factory=dict)

    def written(self) -> dict[str, Any]:
        """The space as YAML would hold it, no default left unsaid and in a fixed order.

        Saved as YAML and loaded again it is the same space with the same hash.
        """
        limits = {"max_params": self.max_params, "max_gflops": self.max_gflops}
        return {
            "families": {
                name: {**self._origin(name), **knobs}
                for name, knobs in _written(self.families).items()
            },
            "controls": _written(self.controls),
            "constraints": {name: limit for name, limit in limits.items() if limit is not None},
        }

    def _origin(self, name: str) -> Mapping[str, str]:
        return self.from_elsewhere[name].origin if name in self.from_elsewhere else {}

    @property
    def hash(self) -> str:
        """12 hexadecimal digits that change with what the space holds.

        Comments, the order of keys and choices, spelled-out defaults and the path do not count; the
        content of a user's file does.
        """
        text = json.dumps(self.written(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def size(self) -> int | None:
        """How many points it has, before any are merged; None where a range is dense."""
        counts = [
            count_points(knobs) for knobs in (*self.controls.values(), *self.families.values())
        ]
        return None if None in counts else sum(count for count in counts if count is not None)

    def on(self, base: BaseShape) -> ResolvedSpace:
        """The space on this base."""
        return ResolvedSpace(self, base)


def _written(families: Mapping[str, Knobs]) -> dict[str, Any]:
    return {
        family: {name: knobs[name].written() for name in sorted(knobs)}
        for family, knobs in families.items()
    }


def ready_spaces() -> dict[str, Path]:
    """The spaces that come with headsearch, by file name."""
    spec = importlib.util.find_spec("headsearch.search_spaces")
    if spec is not None and spec.submodule_search_locations is not None:
        folders = [Path(folder) for folder in spec.submodule_search_locations]
    else:  # a source checkout, where the folder lies beside the package
        folders = [Path(__file__).parents[3] / "search_spaces"]
    return {path.name: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def find_space(name: str) -> Path:
    """The file that `--space` means: the path as given, else a ready-made space of that name.

    Raises:
        UserError: where there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f"{name}: a directory; --space wants a YAML file")
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


def load_space(path: Path) -> Space:
    """The search space in a YAML file; `search_spaces/heads.yaml` shows and explains the form.

    A family of the user's own that the space names is EXECUTED: its file is Python.

    Raises:
        UserError: one line with file, line and what would be right, for whatever is wrong in it.
    """
    return read_space(read_yaml(path), str(path), path.parent)


def read_space(root: Located, source: str, folder: Path = Path()) -> Space:
    """The search space that a YAML file, or a Python dict of the same form, holds.

    Args:
        source: what the space is called where it is shown.
        folder: where the paths of a user's own families start from.

    Raises:
        UserError: one line with where it stands, for whatever is wrong in it.
    """
    written = root.mapping("a search space").get(formats.KEY)
    if written is not None:  # before its keys: those of a later format may be unknown here
        formats.check_format(written.plain(), formats.SPACE, written.where)
    known = (formats.KEY, "families", "controls", "constraints")
    entries = root.mapping("a search space", known)
    elsewhere = read_user_families(entries.get("families"), folder, {*FAMILIES, *CONTROLS})
    found = [family for family in FAMILIES.values() if not family.control]
    found += [user.family for user in elsewhere.values()]
    families = read_families(
        without_origins(entries.get("families"), elsewhere),
        "family",
        {family.name: knobs_of(family) for family in found},
        {name: f"{name!r} is a control: list it under `controls`" for name in CONTROLS},
    )
    # Left out, both controls are there with their defaults; `controls: []` is for none.
    everything = Located(dict.fromkeys(CONTROLS, Located(None, root.where, {})), root.where, {})
    controls = read_families(entries.get("controls", everything), "control", CONTROLS, {})
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
