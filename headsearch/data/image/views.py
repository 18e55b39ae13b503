"""Random views of image batches on the training device: crop, flip, colour jitter, blur, solarize.

Input is uint8, output is normalised float32. All random numbers are drawn on the device from the
caller's generator, separately for each image and view. Nothing waits for the device or depends on
the values of a tensor, so the code also runs on the `meta` device.

Suffixes: B images of a batch, N views of all images (count × B), 3 colours, H and W (or S) pixels,
P random parameters, K taps of a kernel.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from headsearch.config.normalization import IMAGENET, Normalization
from headsearch.config.views import ViewSettings

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, rounded as in torchvision


def normalize(images_B3HW: Tensor, normalization: Normalization = IMAGENET) -> Tensor:
    """Converts uint8 images (B, 3, H, W), or maps of one channel, to float32, normalised."""
    assert images_B3HW.dtype == torch.uint8
    return _standardize(images_B3HW.float().div_(255), normalization)


def make_views(
    images_B3SS: Tensor,
    generator: torch.Generator | None,
    settings: ViewSettings,
    count: int = 2,
    part: tuple[int, int] = (0, 1),
    normalization: Normalization = IMAGENET,
    side: int | None = None,
) -> Tensor:
    """Draws `count` random views of every image.

    Args:
        images_B3SS: (B, 3, S, S) uint8.
        generator: a generator on the images' device; one call draws all numbers. None is only
            valid on the `meta` device.
        settings: the augmentations.
        count: the number of views of each image.
        part: (p, n) if the images are the p-th of n equal parts of a batch. They get the same views
            as in a call with the whole batch, so that ranks together see what one process would.
        normalization: the mean and std of the result.
        side: the side of the views in pixels, that of the images by default.

    Returns:
        (count, B, 3, side, side) float32, normalised as by `normalize`.
    """
    batch, _, size, _ = images_B3SS.shape
    size = size if side is None else side
    draw = _draw(images_B3SS, generator, count, batch, part)
    x_N3SS = images_B3SS.float().div_(255).repeat(count, 1, 1, 1)
    boxes_N4 = crop_boxes(
        draw["area"], draw["ratio"], draw["left"], draw["top"], settings.crop_scale,
        settings.crop_ratio,
    )  # fmt: skip
    flipped_N = draw["flip"] < settings.flip
    x_N3SS = crop_and_resize(x_N3SS, boxes_N4, flipped_N, settings.interpolation, size)
    x_N3SS = _change_colors(x_N3SS, draw, settings, count)
    return _standardize(x_N3SS, normalization).view(count, batch, 3, size, size)


def finish_views(
    crops_VB3SS: Tensor,
    generator: torch.Generator | None,
    settings: ViewSettings,
    part: tuple[int, int] = (0, 1),
    normalization: Normalization = IMAGENET,
) -> Tensor:
    """Makes views of crops that were cut from larger images already; see `photos`.

    Args:
        crops_VB3SS: (V, B, 3, S, S) uint8, V crops of each image.
        generator, settings, part, normalization: as in `make_views`.

    Returns:
        (V, B, 3, S, S) float32, flipped, with changed colours, normalised.
    """
    count, batch = crops_VB3SS.shape[:2]
    draw = _draw(crops_VB3SS, generator, count, batch, part)
    x_N3SS = crops_VB3SS.flatten(0, 1).float().div_(255)
    x_N3SS = torch.where((draw["flip"] < settings.flip).view(-1, 1, 1, 1), x_N3SS.flip(3), x_N3SS)
    x_N3SS = _change_colors(x_N3SS, draw, settings, count)
    return _standardize(x_N3SS, normalization).view_as(crops_VB3SS)


def _draw(
    images: Tensor,
    generator: torch.Generator | None,
    count: int,
    batch: int,
    part: tuple[int, int],
) -> dict[str, Tensor]:
    """The uniform numbers (N,) of the views of a part of a batch, by name."""
    assert images.dtype == torch.uint8
    assert generator is not None or images.is_meta
    index, parts = part
    # Numbers for the whole batch are drawn on every rank, which then keeps those of its own part.
    draws_PN = torch.rand(
        (len(_DRAWS), count * parts * batch), generator=generator, device=images.device
    )
    draws_PN = draws_PN.view(-1, count, parts, batch)[:, :, index].flatten(1)
    return dict(zip(_DRAWS, draws_PN.unbind(0), strict=True))


def _change_colors(
    x_N3SS: Tensor, draw: dict[str, Tensor], settings: ViewSettings, count: int
) -> Tensor:
    """Colour jitter, grey, blur and solarisation of images in [0, 1]."""
    brightness, contrast, saturation, hue = (
        settings.jitter if settings.jitter_probability else [0] * 4
    )
    jittered_N = draw["jitter"] < settings.jitter_probability
    if brightness:
        x_N3SS = adjust_brightness(x_N3SS, _factor(draw["brightness"], brightness, jittered_N))
    if contrast:
        x_N3SS = adjust_contrast(x_N3SS, _factor(draw["contrast"], contrast, jittered_N))
    if saturation:
        x_N3SS = adjust_saturation(x_N3SS, _factor(draw["saturation"], saturation, jittered_N))
    if hue:
        x_N3SS = adjust_hue(x_N3SS, (draw["hue"] * 2 - 1) * hue * jittered_N)
    if settings.grayscale:
        kept_N = (draw["grayscale"] >= settings.grayscale).float()
        x_N3SS = adjust_saturation(x_N3SS, kept_N)
    if any(settings.blur):
        low, high = settings.blur_sigma
        sigma_N = low + (high - low) * draw["sigma"]
        x_N3SS = gaussian_blur(x_N3SS, sigma_N, _chosen(draw["blur"], settings.blur, count))
    if any(settings.solarize):
        x_N3SS = solarize(x_N3SS, _chosen(draw["solarize"], settings.solarize, count))
    return x_N3SS


def _chosen(draw_N: Tensor, probability: tuple[float, ...], count: int) -> Tensor:
    """Which of the views something is done to, (N,) bool, by its probability in each view."""
    if len(probability) == 1:
        return draw_N < probability[0]
    each = draw_N.shape[0] // count
    # Filled on the device, as in `_standardize`.
    return draw_N < torch.cat([draw_N.new_full((each,), x) for x in probability])


_DRAWS = (
    "area", "ratio", "left", "top", "flip", "jitter", "brightness", "contrast", "saturation",
    "hue", "grayscale", "blur", "sigma", "solarize",
)  # fmt: skip
"""The uniform numbers drawn for each view of each image.

All of them are drawn even if unused, so that a setting does not change the numbers of another.
"""


def _factor(draw_N: Tensor, strength: float, jittered_N: Tensor) -> Tensor:
    """Factors uniform in 1 ± strength; 1 for images that are not jittered."""
    return 1 + (draw_N * 2 - 1) * strength * jittered_N


def crop_boxes(
    area_N: Tensor,
    ratio_N: Tensor,
    left_N: Tensor,
    top_N: Tensor,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Tensor:
    """Converts four uniform numbers in [0, 1) per image to a crop of a square image.

    Areas are uniform in `scale`. Aspect ratios are log-uniform in the part of `ratio` that a crop
    of this area can have inside the image, so none has to be rejected. (The Inception crop of
    torchvision rejects and draws again, which makes large crops less frequent.)

    Args:
        area_N, ratio_N, left_N, top_N: the uniform numbers.
        scale: the smallest and largest area, as a fraction of the image.
        ratio: the smallest and largest width over height.

    Returns:
        (N, 4): left, top, width, height as fractions of the image's side, all inside the image.
    """
    area_N = scale[0] + (scale[1] - scale[0]) * area_N
    # width² = area · ratio <= 1 and height² = area / ratio <= 1 bound the ratio on both sides.
    low_N = area_N.log().clamp(min=math.log(ratio[0]))
    high_N = area_N.log().neg().clamp(max=math.log(ratio[1]))
    half_log_ratio_N = (low_N + (high_N - low_N) * ratio_N) / 2
    side_N = area_N.sqrt()
    width_N = (side_N * half_log_ratio_N.exp()).clamp(max=1)  # rounding may give more than 1
    height_N = (side_N * half_log_ratio_N.neg().exp()).clamp(max=1)
    return torch.stack([left_N * (1 - width_N), top_N * (1 - height_N), width_N, height_N], dim=1)


def crop_and_resize(
    x_N3SS: Tensor,
    boxes_N4: Tensor,
    flipped_N: Tensor,
    interpolation: str = "bilinear",
    side: int | None = None,
) -> Tensor:
    """Resizes crops, and flips some of them horizontally.

    A crop is never larger than its image, so at the image's size it is only enlarged and needs no
    antialiasing. Local crops, which are smaller, have about as many pixels as their part of the
    image.

    Args:
        x_N3SS: (N, 3, S, S) float.
        boxes_N4: left, top, width, height as fractions of the side, not rounded to pixels.
        flipped_N: bool; True for the crops to flip.
        interpolation: bilinear or bicubic.
        side: the side of the result in pixels, that of the images by default.
    """
    left_N, top_N, width_N, height_N = boxes_N4.unbind(1)
    # grid_sample's coordinates run from −1 to 1 over the image; a negative scale mirrors.
    zero_N = torch.zeros_like(left_N)
    scale_x_N = torch.where(flipped_N, -width_N, width_N)
    theta_N6 = torch.stack(
        [scale_x_N, zero_N, 2 * left_N + width_N - 1, zero_N, height_N, 2 * top_N + height_N - 1],
        dim=1,
    )
    size = [*x_N3SS.shape[:2], *([side] * 2 if side is not None else x_N3SS.shape[2:])]
    grid_NSS2 = F.affine_grid(theta_N6.view(-1, 2, 3), size, align_corners=False)
    resized_N3SS = F.grid_sample(
        x_N3SS, grid_NSS2, mode=interpolation, padding_mode="border", align_corners=False
    )
    # Bicubic interpolation overshoots at edges.
    return resized_N3SS.clamp_(0, 1) if interpolation == "bicubic" else resized_N3SS


def _luma(x_N3HW: Tensor) -> Tensor:
    """The luma (N, 1, H, W) of RGB images."""
    red_N1HW, green_N1HW, blue_N1HW = torch.split(x_N3HW, 1, dim=1)
    return (red_N1HW * _LUMA[0]).add_(green_N1HW, alpha=_LUMA[1]).add_(blue_N1HW, alpha=_LUMA[2])


def adjust_brightness(x_N3HW: Tensor, factor_N: Tensor) -> Tensor:
    """Multiplies each image in [0, 1] by its factor, clipped to [0, 1]."""
    return (x_N3HW * factor_N.view(-1, 1, 1, 1)).clamp_(0, 1)


def adjust_contrast(x_N3HW: Tensor, factor_N: Tensor) -> Tensor:
    """Scales the distance of each image from its mean luma, clipped to [0, 1]."""
    mean_N111 = _luma(x_N3HW).mean(dim=(2, 3), keepdim=True)
    return torch.lerp(mean_N111, x_N3HW, factor_N.view(-1, 1, 1, 1)).clamp_(0, 1)


def adjust_saturation(x_N3HW: Tensor, factor_N: Tensor) -> Tensor:
    """Scales the distance of each pixel from its luma, clipped to [0, 1]; a factor 0 gives grey."""
    return torch.lerp(_luma(x_N3HW), x_N3HW, factor_N.view(-1, 1, 1, 1)).clamp_(0, 1)


def adjust_hue(x_N3HW: Tensor, turn_N: Tensor) -> Tensor:
    """Rotates the hue of images in [0, 1] by a fraction of the colour circle, in HSV space."""
    value_N1HW = x_N3HW.amax(dim=1, keepdim=True)
    chroma_N1HW = value_N1HW - x_N3HW.amin(dim=1, keepdim=True)
    red, green, blue = torch.split(x_N3HW, 1, dim=1)
    # Hue in sixths of the circle. The hue of a grey pixel is arbitrary, since its chroma is 0.
    divisor_N1HW = chroma_N1HW.clamp(min=1e-8)
    hue_N1HW = torch.where(
        value_N1HW == red,
        (green - blue) / divisor_N1HW,
        torch.where(
            value_N1HW == green,
            (blue - red) / divisor_N1HW + 2,
            (red - green) / divisor_N1HW + 4,
        ),
    )
    hue_N1HW += 6 * turn_N.view(-1, 1, 1, 1)
    # The inverse in closed form: channel = value − chroma · clip(min(k, 4 − k), 0, 1) with
    # k = (n + hue) mod 6 and n = 5, 3, 1 for red, green and blue.
    offset_131 = torch.arange(5, 0, -2, device=x_N3HW.device).view(1, 3, 1, 1)
    k_N3HW = (hue_N1HW + offset_131).remainder_(6)
    share_N3HW = torch.minimum(k_N3HW, 4 - k_N3HW).clamp_(0, 1)
    return torch.addcmul(value_N1HW, chroma_N1HW, share_N3HW, value=-1)


def gaussian_blur(x_N3HW: Tensor, sigma_N: Tensor, blurred_N: Tensor) -> Tensor:
    """Blurs some images, each with its own standard deviation in pixels; borders are reflected.

    The side of the kernel is a tenth of the image's, as in SimCLR.

    Args:
        x_N3HW: square images.
        sigma_N: standard deviations in pixels.
        blurred_N: bool; True for the images to blur.
    """
    size = x_N3HW.shape[-1]
    radius = max(1, int(size * 0.1) // 2)
    tap_K = torch.arange(-radius, radius + 1, device=x_N3HW.device, dtype=x_N3HW.dtype)
    kernel_NK = torch.softmax(-0.5 * (tap_K / sigma_N.view(-1, 1)) ** 2, dim=1)
    # Images that are not blurred get the kernel of the identity: selecting the others would wait
    # for the device.
    kernel_NK = torch.where(blurred_N.view(-1, 1), kernel_NK, (tap_K == 0).to(x_N3HW.dtype))
    # Each of the M = N · 3 colour planes is a group of one convolution, with a kernel of its own.
    weight_M1K = kernel_NK.repeat_interleave(3, dim=0).unsqueeze(1)
    planes = weight_M1K.shape[0]
    x_1MHW = F.pad(x_N3HW, (radius,) * 4, mode="reflect").flatten(0, 1).unsqueeze(0)
    x_1MHW = F.conv2d(x_1MHW, weight_M1K.unsqueeze(2), groups=planes)
    x_1MHW = F.conv2d(x_1MHW, weight_M1K.unsqueeze(3), groups=planes)
    return x_1MHW.view_as(x_N3HW)


def solarize(x_N3HW: Tensor, solarized_N: Tensor) -> Tensor:
    """Inverts the values of 0.5 and above in some images in [0, 1]."""
    inverted_N3HW = solarized_N.view(-1, 1, 1, 1) & (x_N3HW >= 0.5)
    return torch.where(inverted_N3HW, 1 - x_N3HW, x_N3HW)


def _standardize(x_N3HW: Tensor, normalization: Normalization) -> Tensor:
    """Subtracts the mean from images in [0, 1] and divides by the standard deviation."""
    # What has one channel, such as a log-mel map, takes the first numbers.
    channels = x_N3HW.shape[1]
    means, stds = normalization.mean[:channels], normalization.std[:channels]
    # Filled on the device: a tensor from a Python list would be copied there, which synchronises.
    scale_131 = torch.cat([x_N3HW.new_full((1, 1, 1), 1 / std) for std in stds])
    shift_131 = torch.cat(
        [x_N3HW.new_full((1, 1, 1), -mean / std) for mean, std in zip(means, stds, strict=True)]
    )
    return torch.addcmul(shift_131, x_N3HW, scale_131)
