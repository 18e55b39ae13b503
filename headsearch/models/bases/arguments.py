"""`--base-args`: arguments of timm's model, written as KEY=VALUE,…."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections.abc import Mapping
from typing import Any

import timm
import torch

from headsearch.errors import UserError
from headsearch.models.bases.names import timm_name_of
from headsearch.models.bases.shapes import REFUSALS, first_line

RESERVED = {
    "img_size": "use --image-size",
    "patch_size": "use --patch-size",
    "pretrained": "use --pretrained",
    "checkpoint_path": "use --base-weights",
    **dict.fromkeys(
        ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"),
        "use --pretrained or --base-weights",
    ),
    **dict.fromkeys(("num_classes", "in_chans"), "a base has no classifier, and images 3 channels"),
    **dict.fromkeys(("device", "dtype"), "use --device and --precision"),
    **dict.fromkeys(("features_only", "out_indices"), "a base gives all its maps"),
}
"""Arguments that are decided elsewhere, and where."""

_ENTRY = re.compile(r"\s*([A-Za-z_]\w*)\s*=(.*)", re.DOTALL)
_WORDS = {"true": True, "false": False, "none": None}


def base_arguments(name: str, text: str | None) -> dict[str, Any]:
    """The arguments in a text such as `depth=6,embed_dim=192,norm_layer=rmsnorm`.

    A value is a Python literal (6, 0.5, True, (2, 2, 6, 2)) or else plain text.

    Args:
        name: the base, whose model is tried with them.
        text: the text, None for no arguments.

    Raises:
        UserError: the text is not of this form, or the model does not take an argument.
    """
    arguments = {}
    for entry in re.split(r",(?=\s*[A-Za-z_]\w*\s*=)", text) if text else ():
        found = _ENTRY.fullmatch(entry)
        if found is None:
            raise UserError(f"--base-args: {entry.strip()!r} is not of the form KEY=VALUE")
        key = found[1]
        if key in RESERVED:
            raise UserError(f"--base-args: {key} is not to be given here: {RESERVED[key]}")
        if "drop" in key:
            raise UserError(f"--base-args: {key} would do nothing: nothing in a base is random")
        if key in arguments:
            raise UserError(f"--base-args: {key} is given twice")
        arguments[key] = _value(found[2].strip())
    if arguments:
        check_arguments(timm_name_of(name), arguments)
    return arguments


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def check_arguments(timm_name: str, arguments: Mapping[str, Any]) -> None:
    """Builds the model with the arguments on the meta device, to see whether it takes them.

    Raises:
        UserError: it does not.
    """
    try:
        with torch.device("meta"):
            timm.create_model(timm_name, num_classes=0, **arguments)
    except REFUSALS as error:
        raise UserError(f"--base-args: {_refusal(timm_name, arguments, error)}") from None


def _refusal(timm_name: str, arguments: Mapping[str, Any], error: Exception) -> str:
    message = first_line(error)
    fixed = re.search(r"multiple values for keyword argument '(\w+)'", message)
    if fixed is not None:
        return f"{timm_name} sets {fixed[1]} itself and does not let it be given"
    strange = re.search(r"unexpected keyword argument(?:\(s\):)? \[?'(\w+)'", message)
    if strange is None:
        shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        return f"{timm_name} cannot be built with {shown}: {message}"
    with torch.device("meta"):
        model = timm.create_model(timm_name, num_classes=0)
    known = [
        key
        for key in inspect.signature(type(model)).parameters
        if key not in RESERVED and key != "kwargs" and "drop" not in key
    ]
    near = difflib.get_close_matches(strange[1], known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else f" (it takes {', '.join(known)})"
    return f"{timm_name} takes no argument {strange[1]!r}{hint}"
