"""`ViewSettings`: how the random views of training images are drawn; the published ones by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from headsearch.config.view_text import AUTO, PUBLISHED, ViewsBase, parsed, text_of
from headsearch.errors import UserError, unknown

SMALL, MULTICROP = "small", "multicrop"
NAMES = (AUTO, SMALL, PUBLISHED, MULTICROP)
PHOTO_SIZE = 64
"""From this image side in pixels on, `auto` means the published views. A blur, or a crop of 8 % of
the area, erases the content of smaller images."""


@dataclass(frozen=True)
class ViewSettings(ViewsBase):
    """The augmentations of the views of each image, in the order in which they are applied.

    Each image has two views, and `local_views` smaller crops besides (multi-crop), which only the
    base of the student sees.

    `jitter`, `blur` and `solarize` are as published where this class is made by `views_for`. Two
    details differ from the published pipelines: brightness, contrast, saturation and hue are
    applied in this order instead of a random one, and the flip comes with the crop.

    Attributes:
        crop_scale: smallest and largest area of a crop, as a share of the image.
        crop_ratio: smallest and largest width over height of a crop; 1 must lie between them.
        flip: probability of a horizontal flip.
        jitter: strengths of brightness, contrast, saturation (factors from 1 − x to 1 + x) and
            hue (rotations from −x to x of the colour circle).
        jitter_probability: probability that the colours of an image are jittered.
        grayscale: probability that an image is converted to grey.
        blur: probability of a Gaussian blur: one number, or one for each view.
        blur_sigma: smallest and largest standard deviation of the blur, in pixels.
        solarize: probability that bright pixels (0.5 and above) are inverted: one number, or one
            for each view.
        interpolation: how crops are resized: bilinear or bicubic.
        local_views: the number of local crops of each image.
        local_size: their side in pixels; 0 for 3/7 of the image side, as 96 pixels are of 224.
        local_scale: smallest and largest area of a local crop, as a share of the image.

    Raises:
        UserError: a value is out of its range.
    """

    crop_scale: tuple[float, float] = (0.2, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jitter_probability: float = 0.8
    grayscale: float = 0.2
    blur: tuple[float, ...] = (0.0,)
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize: tuple[float, ...] = (0.0,)
    interpolation: str = "bilinear"
    local_views: int = 0
    local_size: int = 0
    local_scale: tuple[float, float] = (0.05, 0.25)

    def __post_init__(self) -> None:
        for name in ("flip", "jitter_probability", "grayscale"):
            self._check(name, 0 <= getattr(self, name) <= 1, "a probability in [0, 1]")
        for name in ("blur", "solarize"):
            value = getattr(self, name)
            right = len(value) in (1, VIEWS) and all(0 <= x <= 1 for x in value)
            self._check(name, right, f"a probability in [0, 1], or one for each of {VIEWS} views")
        for name in ("crop_scale", "local_scale"):
            low, high = getattr(self, name)
            self._check(name, 0 < low <= high <= 1, "low/high with 0 < low <= high <= 1")
        most = MOST_LOCAL_VIEWS
        self._check("local_views", 0 <= self.local_views <= most, f"a number from 0 to {most}")
        self._check("local_size", self.local_size >= 0, "a side in pixels, or 0")
        low, high = self.crop_ratio
        self._check("crop_ratio", 0 < low <= 1 <= high, "low/high with 0 < low <= 1 <= high")
        strengths = all(0 <= x <= 1 for x in self.jitter[:3]) and 0 <= self.jitter[3] <= 0.5
        self._check("jitter", strengths, "three strengths in [0, 1] and a hue in [0, 0.5]")
        low, high = self.blur_sigma
        self._check("blur_sigma", 0 < low <= high, "low/high with 0 < low <= high")
        if self.interpolation not in INTERPOLATIONS:
            raise unknown("interpolation of views", self.interpolation, INTERPOLATIONS)

    @property
    def words(self) -> str:
        """The settings in a few words, for notes."""
        low, high = self.crop_scale
        parts = [f"crops of {100 * low:g} to {100 * high:g} % of the area ({self.interpolation})"]
        if self.flip:
            parts.append("flips")
        if self.jitter_probability and any(self.jitter):
            parts.append(f"colour jitter {text_of(self.jitter)}")
        if self.grayscale:
            parts.append(f"grey {self.grayscale:g}")
        for name in ("blur", "solarize"):
            if any(getattr(self, name)):
                parts.append(f"{name} {text_of(getattr(self, name))}")
        if self.local_views:
            low, high = self.local_scale
            parts.append(f"{self.local_views} local crops of {100 * low:g} to {100 * high:g} %")
        return ", ".join(parts)

    def local_side(self, image_size: int) -> int:
        """The side of local crops in pixels, for images of a side of `image_size`."""
        return self.local_size or max(8, 8 * round(image_size * 3 / 7 / 8))

    @property
    def of_local_views(self) -> ViewSettings:
        """The augmentations of the local crops: as published, blurred by half and not solarized."""
        blur = (0.5,) if any(self.blur) else (0.0,)
        return replace(self, crop_scale=self.local_scale, blur=blur, solarize=(0.0,), local_views=0)


VIEWS = 2
"""The number of views of each image in a step, without local crops."""
MOST_LOCAL_VIEWS = 32
INTERPOLATIONS = ("bilinear", "bicubic")


_BYOL = ViewSettings(
    crop_scale=(0.08, 1.0), blur=(1.0, 0.1), solarize=(0.0, 0.2), interpolation="bicubic"
)
PUBLISHED_VIEWS: Mapping[str, ViewSettings] = {
    # Chen et al. 2020, arXiv 2002.05709, appendix A, with colour distortion of strength 1.
    "simclr": ViewSettings(
        crop_scale=(0.08, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), blur=(0.5,), interpolation="bicubic"
    ),
    # Grill et al. 2020, arXiv 2006.07733, appendix B.
    "byol": _BYOL,
    # Zbontar et al. 2021, arXiv 2103.03230, section 3.1: those of BYOL.
    "barlow": _BYOL,
    # Chen et al. 2021, arXiv 2104.02057: those of BYOL; torchvision's interpolation.
    "mocov3": replace(_BYOL, interpolation="bilinear"),
    # Chen and He 2021, arXiv 2011.10566, section 3: those of MoCo v2 (arXiv 2003.04297).
    "simsiam": ViewSettings(jitter=(0.4, 0.4, 0.4, 0.1), blur=(0.5,)),
    # Bardes et al. 2022, arXiv 2105.04906, appendix C: those of BYOL, the same for both views.
    "vicreg": replace(_BYOL, blur=(0.5,), solarize=(0.1,)),
    # Caron et al. 2021, arXiv 2104.14294: those of BYOL; the crops of training without local ones.
    "dino": replace(_BYOL, crop_scale=(0.14, 1.0)),
    # Zhou et al. 2022, arXiv 2111.07832: those of DINO.
    "ibot": replace(_BYOL, crop_scale=(0.14, 1.0)),
    # He et al. 2022, arXiv 2111.06377, appendix A: crops and flips alone.
    "mae": ViewSettings(jitter_probability=0.0, grayscale=0.0, interpolation="bicubic"),
}
"""The views of each objective as published for ImageNet, without local crops (multi-crop)."""

# The training arguments of the published ViT-S/16: two crops of 224 pixels and ten of 96.
_MULTICROP = replace(
    _BYOL, crop_scale=(0.25, 1.0), local_views=10, local_size=0, local_scale=(0.05, 0.25)
)
MULTICROP_VIEWS: Mapping[str, ViewSettings] = {
    # Caron et al. 2021, arXiv 2104.14294, section 3.1 and the arguments released with the weights.
    "dino": _MULTICROP,
    # Zhou et al. 2022, arXiv 2111.07832: those of DINO.
    "ibot": _MULTICROP,
}
"""The views of the objectives that were published with local crops."""

SMALL_VIEWS = ViewSettings()
"""SimCLR's for small images, with the jitter of BYOL; its blur is for photos alone."""


def views_for(text: str, objective: str, image_size: int) -> ViewSettings:
    """The views that a setting asks for.

    Args:
        text: `auto`, `small`, `published`, `multicrop`, or changes to them such as
            `published,solarize=0`. Without a name the changes are those of `auto`.
        objective: whose views are meant.
        image_size: side of the views in pixels. `auto` is `small` below `PHOTO_SIZE` and
            `published` from there on; `mae` has its published ones at any size.

    Raises:
        UserError: the text has another form, or a value is out of its range.
    """
    name, changes = parsed(text, NAMES, SMALL_VIEWS)
    if name == MULTICROP:
        if objective not in MULTICROP_VIEWS:
            names = " and ".join(MULTICROP_VIEWS)
            raise UserError(f"--views multicrop is for the objectives {names}, not {objective}")
        return replace(MULTICROP_VIEWS[objective], **changes)
    published = PUBLISHED_VIEWS.get(objective, SMALL_VIEWS)
    if name == PUBLISHED or (name == AUTO and (image_size >= PHOTO_SIZE or objective == "mae")):
        return replace(published, **changes)
    blur = (0.5,) if image_size >= PHOTO_SIZE else (0.0,)
    return replace(replace(SMALL_VIEWS, blur=blur), **changes)


def check(text: str) -> None:
    """Raises UserError if a text is not a value of `--views`."""
    views_for(text, "dino", PHOTO_SIZE)
