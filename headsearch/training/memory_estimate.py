"""An estimate of the memory of a training step, made before the first one without computing it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from headsearch import torchrun
from headsearch.device import free_memory
from headsearch.errors import UserError
from headsearch.models.bases.plan import BasePlan
from headsearch.models.bases.shapes import REFUSALS
from headsearch.text import with_article

FLOAT32 = 4
"""Bytes."""
IN_BF16 = 0.5
"""The least share of float32's activations that mixed precision keeps."""
SMALL_GFLOPS = 10
"""A forward pass of so few GFLOPs in all is not checked: it takes a second to trace larger ones."""
IMAGES = 2
"""The images of the forward pass that is traced: norms over a batch need two."""
GB = 1e9
"""Bytes."""


def check_memory(
    plan: BasePlan, batch: int, device: torch.device, *, autocast: bool, crops_per_image: float = 2
) -> None:
    """Refuses a base whose training step on a CPU cannot fit into the memory that is free.

    An accelerator reports that it has no memory left; a machine without memory stalls instead.
    Heads, teacher and evaluation come on top, so what passes may still be too large: cohorts that
    are too large are split later. `headsearch run --dry-run` measures all of it.

    Args:
        plan: the base.
        batch: images in a step, of all processes together.
        device: the device to train on.
        autocast: whether products run in bfloat16.
        crops_per_image: the crops of each image; smaller ones count as parts of one.

    Raises:
        UserError: the memory is not sufficient.
    """
    crops = crops_per_image * batch / torchrun.count()
    if device.type != "cpu" or plan.gflops * crops < SMALL_GFLOPS:
        return
    available, kept = free_memory(device), activation_bytes_per_image(plan)
    if available is None or kept is None:
        return
    need = crops * kept * (IN_BF16 if autocast else 1) + 4 * FLOAT32 * 1e6 * plan.params_m
    if need > available:
        height, width = plan.grid
        raise UserError(
            f"a step of {batch} {_inputs(plan)} "
            f"({with_article(f'{height}×{width} map')}) needs "
            f"at least {need / GB:.1f} GB of memory for the base alone, but "
            f"{available / GB:.1f} GB are free: {_advice(plan)}"
        )


def _inputs(plan: BasePlan) -> str:
    shape = plan.input_shape
    return shape.words if shape.sequence else f"images of {shape.width} pixels"


def _advice(plan: BasePlan) -> str:
    if plan.input_shape.sequence:
        if plan.input_shape.vocabulary:
            return "use a smaller --batch-size or --text-tokens"
        if plan.input_shape.rate:
            return "use a smaller --batch-size or --clip-seconds, or a smaller conv_dim"
        return "use a smaller --batch-size or --clip-seconds, or a larger --patch-size"
    smaller = "use a smaller --batch-size or --image-size"
    patch = plan.arguments.get("patch_size")
    if patch is None:
        return smaller
    return (
        f"{smaller}, or a larger --patch-size than {patch} (it divides --image-size, which should "
        "be a multiple of 8 or 16)"
    )


def activation_bytes_per_image(plan: BasePlan) -> float | None:
    """Bytes of float32 that a forward pass of the base keeps for its backward pass, for one image.

    It is traced on the meta device, which computes nothing. None if the base does not allow that.
    """
    try:
        with torch.device("meta"):
            base = plan.without_weights().build().to("meta").train()
            return _kept_bytes(base, plan.example(IMAGES)) / IMAGES
    except REFUSALS:  # such as modules whose branches depend on values
        return None


def _kept_bytes(module: nn.Module, images: Tensor) -> int:
    """Bytes of the tensors that a forward pass keeps, without parameters and buffers."""
    own = {tensor.untyped_storage()._cdata for tensor in module.state_dict(keep_vars=True).values()}
    # The tensors are held, so that no storage is freed whose address another one could get.
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage()._cdata
        if address not in own:
            kept[address] = tensor.detach()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = module(images)
    del outputs
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
