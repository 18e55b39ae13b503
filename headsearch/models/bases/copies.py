"""Finds the weights of a base among the tensors of a checkpoint, whatever they are called there.

Checkpoints hold a model under the names of the code that trained it: in dictionaries (`state_dict`,
`teacher`), behind the prefixes of wrappers (`module.`, `encoder_q.`), and often several times. A
*copy* is all tensors behind one such prefix; the keys of dictionaries are part of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from torch import Tensor

from headsearch.errors import UserError, unknown

WRAPPERS = frozenset({
    # keys of dictionaries in checkpoints
    "state_dict", "state_dict_ema", "model_state", "model_state_dict", "model_ema",
    "ema_state_dict", "net", "network", "weights", "params",
    # wrappers of a module, frameworks of self-supervised learning, names of branches
    "module", "model", "base", "trunk", "backbone", "encoder", "vit", "base_model", "visual", "ema",
    "teacher", "teacher_backbone", "student", "student_backbone", "base_encoder", "encoder_q",
    "encoder_k", "momentum_encoder", "momentum_backbone", "online_network", "online_backbone",
    "online_encoder", "target_network", "target_backbone", "target_encoder", "context_encoder",
})  # fmt: skip
"""Words that stand before the names of a model's own parameters.

They are only needed for names that timm has to convert. Otherwise a copy is found by the names of
the base's parameters, behind any prefix.
"""

RENAMED = (
    # torch.compile, FSDP and activation checkpointing wrap blocks within a model
    (r"(^|\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.", r"\1"),
    # DINOv2 trains with blocks in chunks: block 3 is `blocks.0.3`
    (r"(^|\.)blocks\.\d+\.(\d+)\.", r"\1blocks.\2."),
)
"""Patterns in names, and what replaces them where the base's own names do not match them."""

FIRST = frozenset({"ema", "teacher", "target_encoder"})
LAST = frozenset({"student", "momentum", "k", "target"})
"""Words in the prefix of a copy that is taken before, or after, copies without such a word.

Averages over training steps are what timm, DINO and I-JEPA evaluate; of two branches that are
trained to agree (MoCo, BYOL), the published evaluations use the one with the gradient.
"""

ALIKE = 0.9
"""A copy has to have this share of the parameters that the most complete copy has."""


class Found(NamedTuple):
    """The copy that is used."""

    prefix: str
    """The prefix of its names in the checkpoint; empty if the names are bare."""
    others: tuple[str, ...]
    """The prefixes of copies that could have been used instead."""
    state: Mapping[str, Tensor]
    """Its tensors by the names of the base; names that the base does not have are included."""


def find_copy(
    tensors: Mapping[str, Tensor],
    containers: Collection[str],
    wanted: Mapping[str, Tensor],
    convert: Callable[[dict[str, Tensor]], Mapping[str, Tensor]],
    prefix: str | None = None,
) -> Found:
    """The copy of the base's weights in a checkpoint.

    Args:
        tensors: all tensors of the checkpoint by name.
        containers: the nested dictionaries of the checkpoint, as prefixes of names.
        wanted: the base's own parameters by name.
        convert: converts a copy to the base's names, as far as timm can.
        prefix: the prefix that the user gave; None to look for the best copy.

    Raises:
        UserError: no name has the prefix that the user gave, or what `convert` raises.
    """
    renamed = _renamed(tensors, wanted)

    def copy_at(start: str) -> dict[str, Tensor]:
        deeper = tuple(c for c in containers if c.startswith(start) and c != start)
        return {
            name[len(start) :]: tensor
            for name, tensor in renamed.items()
            if name.startswith(start) and not name.startswith(deeper)
        }

    if prefix is not None:
        start = prefix if prefix.endswith(".") or not prefix else f"{prefix}."
        chosen = copy_at(start)
        if not chosen:
            raise unknown("--weights-prefix", prefix, _wrapped(renamed))
        return Found(start, (), convert(chosen))
    named = _prefixes_before(renamed, wanted)
    if named:
        best = max(named.values())
        alike = [start for start, count in named.items() if count >= ALIKE * best]

        def other_size(start: str) -> bool:
            """Whether the copy is of a model of another size, such as the teacher of a smaller."""
            own = ((renamed.get(start + name), tensor) for name, tensor in wanted.items())
            return 2 * sum(t is not None and t.shape == o.shape for t, o in own) < best

        fitting = [start for start in alike if not other_size(start)] or alike
        start, *others = sorted(fitting, key=lambda s: (_rank(s), -named[s], len(s), s))
        return Found(start, tuple(others), convert(copy_at(start)))
    return _converted(copy_at, _wrapped(renamed), wanted, convert)


def _converted(
    copy_at: Callable[[str], dict[str, Tensor]],
    prefixes: Collection[str],
    wanted: Collection[str],
    convert: Callable[[dict[str, Tensor]], Mapping[str, Tensor]],
) -> Found:
    """The copy that timm can convert to the most of the base's names."""
    tried: dict[str, Mapping[str, Tensor]] = {}
    errors: list[UserError] = []
    for start in prefixes:
        try:
            tried[start] = convert(copy_at(start))
        except UserError as error:
            errors.append(error)
    if not tried:
        raise errors[0]
    covered = {start: sum(name in state for name in wanted) for start, state in tried.items()}
    best = max(covered.values())
    alike = [start for start, count in covered.items() if count >= ALIKE * best]
    if not best:  # another model: the message names what is missing and what is there
        alike = [max(tried, key=lambda s: (len(tried[s]), -len(s)))]
    start, *others = sorted(alike, key=lambda s: (_rank(s), -covered[s], len(s), s))
    return Found(start, tuple(others), tried[start])


def _prefixes_before(names: Collection[str], wanted: Collection[str]) -> dict[str, int]:
    """The prefixes behind which at least half of the wanted names stand, each with their number."""
    counts: Counter[str] = Counter()
    for name in names:
        start = 0
        while start >= 0:
            if name[start:] in wanted:
                counts[name[:start]] += 1
            dot = name.find(".", start)
            start = dot + 1 if dot >= 0 else -1
    return {prefix: count for prefix, count in counts.items() if 2 * count >= len(wanted)}


def _wrapped(names: Collection[str]) -> list[str]:
    """All prefixes of names that consist of `WRAPPERS`; the empty one is always among them."""
    found = {""}
    for name in names:
        prefix = ""
        for word in name.split(".")[:-1]:
            if word not in WRAPPERS:
                break
            prefix += f"{word}."
            found.add(prefix)
    return sorted(found)


def _renamed(tensors: Mapping[str, Tensor], wanted: Collection[str]) -> Mapping[str, Tensor]:
    for pattern, replacement in RENAMED:
        if not any(re.search(pattern, name) for name in wanted):
            tensors = {re.sub(pattern, replacement, name): t for name, t in tensors.items()}
    return tensors


def _rank(prefix: str) -> int:
    """0 for copies that are taken first, 2 for those that are taken last, 1 for all others."""
    words = {*prefix.split("."), *re.split(r"[._]", prefix)}
    return 0 if words & FIRST else 2 if words & LAST else 1
