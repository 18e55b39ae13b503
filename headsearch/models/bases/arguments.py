"""Parses and checks `--base-args`: keyword arguments for timm's model, as KEY=VALUE,KEY=VALUE."""

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
from headsearch.models.bases.names import ALIAS_ARGUMENTS, timm_name_of
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
    **dict.fromkeys(("features_only", "out_indices"), "a base always gives all its maps"),
}
"""Arguments that `--base-args` must not set, with what to do instead or why."""

_ENTRY = re.compile(r"\s*([A-Za-z_]\w*)\s*=(.*)", re.DOTALL)
_WORDS = {"true": True, "false": False, "none": None}


def base_arguments(name: str, text: str | None) -> dict[str, Any]:
    """Parses the arguments of a timm model; see `parsed_arguments`.

    Args:
        name: the base. Its model is built with the arguments on the meta device as a check.
        text: the text to parse; None for no arguments.

    Raises:
        UserError: the text has another form, or the model does not take an argument.
    """
    arguments = parsed_arguments(text)
    if arguments:
        check_arguments(timm_name_of(name), {**ALIAS_ARGUMENTS.get(name, {}), **arguments})
    return arguments


def parsed_arguments(text: str | None) -> dict[str, Any]:
    """Parses a text such as `depth=6,embed_dim=192,norm_layer=rmsnorm` into arguments.

    A value is a Python literal (6, 0.5, True, (2, 2, 6, 2)) or else plain text.

    Raises:
        UserError: the text does not have this form, or sets what cannot be set here.
    """
    arguments: dict[str, Any] = {}
    # Split only at commas before a KEY=, since values such as (2, 2, 6, 2) hold commas too.
    for entry in re.split(r",(?=\s*[A-Za-z_]\w*\s*=)", text) if text else ():
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise UserError(f"--base-args: {entry.strip()!r} does not have the form KEY=VALUE")
        key = match[1]
        if key in RESERVED:
            raise UserError(f"--base-args: {key} cannot be set here: {RESERVED[key]}")
        # `make_deterministic` sets all dropout to 0, so such an argument would have no effect.
        if "drop" in key:
            raise UserError(f"--base-args: {key} has no effect: nothing in a base is random")
        if key in arguments:
            raise UserError(f"--base-args: {key} is given twice")
        arguments[key] = _value(match[2].strip())
    return arguments


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def check_arguments(timm_name: str, arguments: Mapping[str, Any]) -> None:
    """Builds the model with these arguments on the meta device.

    Raises:
        UserError: the model does not take them.
    """
    try:
        with torch.device("meta"):
            timm.create_model(timm_name, num_classes=0, **arguments)
    except REFUSALS as error:
        raise UserError(f"--base-args: {_refusal(timm_name, arguments, error)}") from None


def _refusal(timm_name: str, arguments: Mapping[str, Any], error: Exception) -> str:
    """Turns the error of a model that does not take its arguments into a message for the user."""
    message = first_line(error)
    fixed = re.search(r"multiple values for keyword argument '(\w+)'", message)
    if fixed is not None:
        return f"{timm_name} sets {fixed[1]} itself; leave it out"
    unexpected = re.search(r"unexpected keyword argument(?:\(s\):)? \[?'(\w+)'", message)
    if unexpected is None:
        shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        return f"{timm_name} cannot be built with {shown}: {message}"
    with torch.device("meta"):
        model = timm.create_model(timm_name, num_classes=0)
    known = [
        key
        for key in inspect.signature(type(model)).parameters
        if key not in RESERVED and key != "kwargs" and "drop" not in key
    ]
    near = difflib.get_close_matches(unexpected[1], known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else f" (it takes {', '.join(known)})"
    return f"{timm_name} takes no argument {unexpected[1]!r}{hint}"
