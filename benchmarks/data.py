"""Compares how fast photos are read: headsearch, torchvision, timm, webdataset, litdata.

    python benchmarks/data.py --photos 400 --size 224 --csv results/data/reading.csv

Each contestant reads the same JPEGs from disk and gives two random crops of each, uint8, without
changing colours (8 to 100 % of the area, bicubic). Time is that of one thread's CPU, so it does not
depend on how many cores are free. The JPEGs are made (noise of all scales, 500×375, quality 90) or
taken from --folder. Contestants take turns, `--rounds` times; the table has medians, and the ratio
of each to headsearch in the same round. webdataset and litdata read JPEGs from shards, which are
written beforehand; without these packages they are left out.

The second table is the wall time of headsearch's own loader with threads and with processes.
"""

from __future__ import annotations

import argparse
import io
import random
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from headsearch.config.settings import RunConfig
from headsearch.config.views import ViewSettings
from headsearch.data import Images
from headsearch.data.image.loading import Loading, load_photos
from headsearch.data.image.photos import Cut, PhotoReader
from headsearch.data.image.readers import open_path
from headsearch.data.loader import Loader

VIEWS = ViewSettings(crop_scale=(0.08, 1.0), interpolation="bicubic")
Contestant = Callable[[list[Path], int], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="JPEGs to read, in place of made ones")
    parser.add_argument("--photos", type=int, default=400, help="how many photos to read")
    parser.add_argument("--size", type=int, default=224, help="side of the crops in pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--csv", type=Path, help="write the first table to this file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        folder = given.folder or _make_photos(Path(made) / "photos", given.photos)
        files = sorted(path for path in folder.rglob("*.jp*g"))[: given.photos]
        table = _compare(files, given.size, given.rounds)
        print(table.to_string(index=False))
        if given.csv:
            given.csv.parent.mkdir(parents=True, exist_ok=True)
            table.to_csv(given.csv, index=False)
        print(_scaling(folder, given.size, given.workers, given.rounds).to_string(index=False))


def _compare(files: list[Path], size: int, rounds: int) -> pd.DataFrame:
    seconds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for run in CONTESTANTS.values():
        run(files, size)  # imports, shards, and files into the page cache
    for _ in range(rounds):
        for name, run in CONTESTANTS.items():
            began = time.process_time()
            run(files, size)
            seconds[name].append(time.process_time() - began)
    ours = seconds["headsearch"]
    rows = []
    for name, taken in seconds.items():
        ratios = [mine / other for mine, other in zip(ours, taken, strict=True)]
        rows.append(
            {
                "contestant": name,
                "photos_per_cpu_second": round(len(files) / statistics.median(taken), 1),
                "ms_a_photo": round(1000 * statistics.median(taken) / len(files), 2),
                "of_headsearch": round(statistics.median(ratios), 2),
                "lowest": round(min(ratios), 2),
                "highest": round(max(ratios), 2),
            }
        )
    return pd.DataFrame(rows)


def _headsearch(files: list[Path], size: int) -> None:
    reader = PhotoReader(open_path(files[0].parent, "photos"), size, 2 * size)
    draws = np.random.default_rng(0).random((len(files), 2, 4))
    for index, of_photo in enumerate(draws):
        reader.crops(index, [Cut(size, of_photo, VIEWS)])


def _torchvision(files: list[Path], size: int) -> None:
    from torchvision.transforms import v2

    crop = v2.RandomResizedCrop(size, VIEWS.crop_scale, interpolation=3)
    for file in files:
        image = Image.open(file).convert("RGB")
        for _ in range(2):
            v2.functional.pil_to_tensor(crop(image))


def _torchvision_tensors(files: list[Path], size: int) -> None:
    from torchvision.transforms import v2

    crop = v2.RandomResizedCrop(size, VIEWS.crop_scale, interpolation=3)
    for file in files:
        image = v2.functional.pil_to_tensor(Image.open(file).convert("RGB"))
        for _ in range(2):
            crop(image)


def _timm(files: list[Path], size: int) -> None:
    from timm.data.transforms import RandomResizedCropAndInterpolation

    crop = RandomResizedCropAndInterpolation(size, VIEWS.crop_scale, interpolation="bicubic")
    for file in files:
        image = Image.open(file).convert("RGB")
        for _ in range(2):
            np.asarray(crop(image))


def _webdataset(files: list[Path], size: int) -> None:
    import webdataset
    from torchvision.transforms import v2

    crop = v2.RandomResizedCrop(size, VIEWS.crop_scale, interpolation=3)
    shards = webdataset.WebDataset(str(_tar_shard(tuple(files))), shardshuffle=False)
    for image, *_ in shards.decode("pilrgb").to_tuple("jpg"):
        for _ in range(2):
            v2.functional.pil_to_tensor(crop(image))


@cache
def _tar_shard(files: tuple[Path, ...]) -> Path:
    shard = files[0].parent.parent / "shard.tar"
    with tarfile.open(shard, "w") as archive:
        for number, file in enumerate(files):
            archive.add(file, f"{number:06d}.jpg")
    return shard


def _litdata(files: list[Path], size: int) -> None:
    import litdata
    from torchvision.transforms import v2

    crop = v2.RandomResizedCrop(size, VIEWS.crop_scale, interpolation=3)
    for item in litdata.StreamingDataset(str(_litdata_chunks(tuple(files)))):
        image = Image.open(io.BytesIO(item["image"])).convert("RGB")
        for _ in range(2):
            v2.functional.pil_to_tensor(crop(image))


@cache
def _litdata_chunks(files: tuple[Path, ...]) -> Path:
    import litdata

    chunks = files[0].parent.parent / "chunks"
    litdata.optimize(_with_bytes, [str(f) for f in files], str(chunks), chunk_bytes="64MB",
                     num_workers=1, mode="overwrite")  # fmt: skip
    return chunks


def _with_bytes(file: str) -> dict[str, bytes]:
    return {"image": Path(file).read_bytes()}


CONTESTANTS: dict[str, Contestant] = {
    "headsearch": _headsearch,
    "torchvision (Pillow)": _torchvision,
    "torchvision (tensors)": _torchvision_tensors,
    "timm": _timm,
    **({"webdataset": _webdataset} if find_spec("webdataset") else {}),
    **({"litdata": _litdata} if find_spec("litdata") else {}),
}


def _scaling(folder: Path, size: int, workers: list[int], rounds: int) -> pd.DataFrame:
    """Wall time of the loader, for as many processes; 0 stands for threads."""
    reader = PhotoReader(open_path(folder, "photos"), size, 2 * size)
    photos, _ = load_photos(reader, torch.arange(len(reader.source)), Loading(memory_limit=1))
    rows = []
    for count in (0, *workers):
        speeds = list(_speeds(photos, size, count, rounds))
        rows.append({"processes": count, "photos_per_second": round(statistics.median(speeds), 1)})
    return pd.DataFrame(rows)


def _speeds(photos: Images, size: int, workers: int, rounds: int) -> Iterator[float]:
    for seed in range(rounds):
        config = RunConfig(batch_size=32, epochs=1, lr=1e-3, views="published,jitter_probability=0,"
                           "grayscale=0,blur=0", workers=workers, seed=seed)  # fmt: skip
        loader = Loader(photos, config, torch.device("cpu"))
        loader.crops(0)  # starts the processes
        began = time.perf_counter()
        for step in range(1, loader.steps):
            loader.crops(step)
        yield 32 * (loader.steps - 1) / (time.perf_counter() - began)


def _make_photos(folder: Path, count: int) -> Path:
    """Made photos: noise of every scale, which compresses about as photos do."""
    folder.mkdir(parents=True)
    generator = random.Random(0)
    for number in range(count):
        rng = np.random.default_rng(generator.getrandbits(32))
        image = np.zeros((375, 500, 3))
        for power in range(2, 9):
            noise = rng.normal(size=(2**power, 2**power, 3))
            coarse = Image.fromarray(np.clip(127 + 40 * noise, 0, 255).astype(np.uint8))
            image += np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), float) - 127
        file = io.BytesIO()
        pixels = np.clip(127 + image / 2.2, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        (folder / f"{number:06d}.jpg").write_bytes(file.getvalue())
    return folder


if __name__ == "__main__":
    main()
