"""`--data` and `--eval-data`: what is found, how it is decoded, who sees what, what is refused."""

from __future__ import annotations

import io
import json
import os
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from headsearch.data import Images, epoch_order
from headsearch.data.image.decode import BadImage, decode, open_image
from headsearch.data.image.loading import Loading, load
from headsearch.data.image.readers import class_folders, open_path
from headsearch.data.image.store import ImagesOnDemand
from headsearch.data.image.synthetic.scenes import generate_scenes
from headsearch.data.image_domain import follow_size
from headsearch.data.order import balanced_order
from headsearch.data.partition import held_out
from headsearch.data.splits import halves
from headsearch.errors import UserError
from headsearch.seeding import seeded_generator
from helpers.image_files import SIZE, class_files, encoded, numbers, open_small, png, tar, write


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """200 cats and 100 dogs."""
    return write(tmp_path / "pets", class_files({"cat": 200, "dog": 100}))


class TestDecoding:
    def gradient(self) -> Image.Image:
        ramp = np.linspace(0, 255, 64, dtype=np.uint8)
        return Image.fromarray(
            np.stack(np.broadcast_arrays(ramp, ramp[:, None], 90), -1).astype("u1")
        )

    @pytest.mark.parametrize("shape", [(96, 64), (64, 128), (48, 48), (16, 24)])
    def test_is_shorter_side_resized_and_centre_cropped(self, shape):
        rng = np.random.default_rng(0)
        noise = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        image = noise.resize(shape, Image.Resampling.BICUBIC)
        reference = v2.Compose(
            [v2.Resize(SIZE, v2.InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(SIZE)]
        )(image)
        difference = np.abs(decode(encoded(image), SIZE).astype(int) - to_chw(reference))
        # Cropping first leaves out pixels beyond the square, so borders differ by a little.
        assert difference[:, 4:-4, 4:-4].max() <= 2

    def test_large_photographs_decoded_at_a_fraction_look_the_same(self):
        noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize((256, 192), Image.Resampling.BICUBIC)
        photograph = encoded(image, "JPEG", quality=95)
        assert open_image(photograph, draft=2 * SIZE).size == (128, 96)
        exact = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=(32, 0, 224, 192))
        difference = np.abs(decode(photograph, SIZE).astype(int) - to_chw(exact))
        assert difference.mean() <= 2

    @pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "LA", "YCbCr"])
    def test_every_mode_becomes_rgb(self, mode):
        image = self.gradient().convert(mode)
        kind = {"CMYK": "TIFF", "YCbCr": "JPEG"}.get(mode, "PNG")
        expected = to_chw(image.convert("RGB"))
        assert np.abs(decode(encoded(image, kind), 64).astype(int) - expected).max() <= 12

    def test_sixteen_bits_keep_their_range(self):
        values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
        pixels = decode(encoded(Image.fromarray(values)), 64)
        assert np.abs(pixels - values / 257).max() <= 0.5 + 1e-9

    def test_floating_point_spans_black_to_white(self):
        values = np.linspace(-3, 5, 64 * 64, dtype=np.float32).reshape(64, 64)
        pixels = decode(encoded(Image.fromarray(values), "TIFF"), 64)
        assert (pixels.min(), pixels.max()) == (0, 255)

    def test_transparency_shows_white(self):
        clear = Image.new("RGBA", (SIZE, SIZE), (200, 10, 10, 0))
        assert decode(encoded(clear), SIZE).min() == 255
        palette = Image.new("P", (SIZE, SIZE), 0)
        palette.putpalette([200, 10, 10])
        assert decode(encoded(palette, transparency=0), SIZE).min() == 255

    def test_animations_give_their_first_frame(self):
        frames = [Image.new("RGB", (SIZE, SIZE), (v, v, v)) for v in (0, 255)]
        gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
        assert decode(gif, SIZE).max() == 0

    def test_photographs_are_turned_upright(self):
        image = self.gradient()
        exif = Image.Exif()
        exif[0x0112] = 6  # taken with the camera on its side
        upright = to_chw(ImageOps.exif_transpose(Image.open(io.BytesIO(
            encoded(image, "PNG", exif=exif)))))  # fmt: skip
        assert np.array_equal(decode(encoded(image, "PNG", exif=exif), 64), upright)
        assert not np.array_equal(upright, to_chw(image))

    @pytest.mark.parametrize("damage", ["empty", "text", "cut png", "cut jpeg", "scrambled"])
    def test_damaged_files_are_bad_images(self, damage):
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype="u1"))
        whole = encoded(noise)
        data = {
            "empty": b"",
            "text": b"this is not an image",
            "cut png": whole[: len(whole) // 2],
            "cut jpeg": encoded(noise, "JPEG")[:900],
            "scrambled": whole[:40] + bytes(len(whole) - 40),
        }[damage]
        with pytest.raises(BadImage):
            decode(data, SIZE)

    @pytest.mark.parametrize("limit", [5000, 3000])
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_decompression_bombs_are_refused(self, monkeypatch, limit):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(BadImage):
            decode(encoded(Image.new("RGB", (80, 80))), SIZE)


def to_chw(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1).astype(int)


class TestSources:
    def test_folder_and_tar_hold_the_same(self, tmp_path):
        files = class_files({"b": 3, "a": 4})
        folder = open_path(write(tmp_path / "folder", files), "folder")
        archive = open_path(tar(tmp_path / "set.tar", files), "set.tar")
        for source in (folder, archive):
            assert source.classes == ("a", "b")
            assert source.labels.tolist() == [0] * 4 + [1] * 3
            images, bad = load(source, torch.arange(7), SIZE)
            assert numbers(images) == [3, 4, 5, 6, 0, 1, 2]
            assert bad == []

    @pytest.mark.parametrize(
        ("files", "classes"),
        [
            (["cat/1.png", "dog/2.png"], ["cat", "dog"]),
            (["set/cat/1.png", "set/dog/2.png"], ["cat", "dog"]),
            (["cat/a/1.png", "cat/b/1.png", "dog/2.png"], ["cat", "cat", "dog"]),
            (["cat/1.png", "cat/2.png"], ["cat", "cat"]),
            (["1.png", "2.png"], None),
            (["1.png", "cat/2.png"], None),
            (["set/1.png", "set/cat/2.png"], None),
        ],
    )
    def test_classes_are_the_first_folders_that_differ(self, files, classes):
        assert class_folders(files) == classes

    def test_an_archive_is_read_in_place_and_its_links_and_hidden_files_left_alone(self, tmp_path):
        path = tmp_path / "odd.tar"
        with tarfile.open(path, "w") as archive:
            for name in ("a/1.png", "b/._1.png", "../../out/b/2.png", "/abs/c/3.png", "d/e.txt"):
                info = tarfile.TarInfo(name)
                info.size = len(png(0))
                archive.addfile(info, io.BytesIO(png(0)))
            link = tarfile.TarInfo("a/4.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
        source = open_path(path, "odd.tar")
        assert list(source.files) == ["../../out/b/2.png", "/abs/c/3.png", "a/1.png"]
        load(source, torch.arange(3), SIZE)
        assert list(tmp_path.iterdir()) == [path]
        assert source.notes == ("odd.tar: 1 file that is not an image left out",)

    def test_linked_class_folders_are_followed_but_not_in_circles(self, tmp_path):
        root = write(tmp_path / "root", class_files({"a": 2}))
        (root / "b").symlink_to(write(tmp_path / "elsewhere", {"x.png": png(9)}))
        (root / "a" / "again").symlink_to(root)
        assert list(open_path(root, "root").files) == ["a/000.png", "a/001.png", "b/x.png"]

    def test_on_demand_gives_the_same_images_as_memory(self, tmp_path):
        files = class_files({"a": 40, "b": 40})
        source = open_path(tar(tmp_path / "set.tar", files), "set.tar")
        order = torch.randperm(80, generator=seeded_generator(1))[:60]
        held, _ = load(source, order, SIZE)
        lazy, _ = load(source, order, SIZE, Loading(1000))
        assert isinstance(lazy, ImagesOnDemand)
        some = torch.tensor([5, 59, 0, 5])
        assert torch.equal(held.batch(some), lazy.batch(some))
        assert torch.equal(held.labels, lazy.labels)
        assert len(held) == len(lazy) == 60

    def test_on_demand_replaces_a_file_that_is_cut_short(self, tmp_path):
        files = class_files({"a": 40})
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        files["a/007.png"] = encoded(Image.fromarray(noise))[:5000]  # its header is whole
        source = open_path(write(tmp_path / "set", files), "set")
        lazy, bad = load(source, torch.arange(40), SIZE, Loading(1000))
        assert bad == []
        assert numbers(lazy)[6:9] == [6, 8, 8]
        assert lazy.bad == ["a/007.png"]


class TestOrders:
    def test_an_epochs_order_needs_no_state(self):
        order = epoch_order(100, epoch=3, seed=7)
        torch.rand(5)
        assert torch.equal(order, epoch_order(100, epoch=3, seed=7))
        assert torch.equal(order.sort().values, torch.arange(100))
        for other in (epoch_order(100, 4, 7), epoch_order(100, 3, 8), epoch_order(100, 7, 3)):
            assert not torch.equal(order, other)

    @pytest.mark.parametrize("sizes", [[100] * 10, [500, 30, 7, 1]])
    def test_every_prefix_holds_the_classes_in_proportion(self, sizes):
        labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        labels = labels[torch.randperm(len(labels), generator=seeded_generator(0))]
        order = balanced_order(labels, len(labels), seeded_generator(0))
        assert torch.equal(order.sort().values, torch.arange(len(labels)))
        counts = torch.nn.functional.one_hot(labels[order]).cumsum(0)
        share = torch.tensor(sizes) / len(labels) * torch.arange(1, len(labels) + 1)[:, None]
        assert float((counts - share).abs().max()) <= 2

    def test_its_members_are_drawn_at_random(self):
        labels = torch.arange(100) % 2
        firsts = {int(balanced_order(labels, 100, seeded_generator(s))[0]) for s in range(40)}
        assert len(firsts) > 20

    def test_halves_are_disjoint_and_stratified(self):
        labels = torch.tensor([0] * 50 + [1] * 31 + [2] * 8)
        choose, report = halves(labels, seed=0)
        assert sorted(choose.tolist() + report.tolist()) == list(range(89))
        difference = labels[choose].bincount() - labels[report].bincount()
        assert int(difference.abs().max()) <= 2
        assert not torch.equal(choose, halves(labels, seed=1)[0])
        assert [len(half) for half in halves(None, seed=0)] == [0, 0]


class TestSplits:
    def test_queries_held_out_are_never_trained_on(self, pets):
        data = open_small(pets, images=100)
        train, bank, queries = numbers(data.train), numbers(data.bank), numbers(data.queries)
        assert (len(train), len(bank), len(queries)) == (100, 50, 40)
        assert not set(queries) & (set(train) | set(bank))
        assert set(bank) <= set(train)
        assert data.queries.classes == data.bank.classes == ("cat", "dog")
        assert abs(int((data.queries.labels == 0).sum()) - 27) <= 1, "two cats to a dog"
        assert abs(int((data.bank.labels == 0).sum()) - 33) <= 1
        for images in (data.bank, data.queries):
            assert [n >= 200 for n in numbers(images)] == (images.labels == 1).tolist()
        assert any("40 images held out" in note for note in data.notes)

    def test_queries_depend_on_the_seed_alone(self, pets):
        queries = numbers(open_small(pets, images=100).queries)
        assert numbers(open_small(pets, images=64, bank_images=0).queries) == queries
        assert numbers(open_small(pets, images=0, memory_limit=9000).queries) == queries
        assert numbers(open_small(pets, images=100, seed=1).queries) != queries

    def test_the_bank_may_be_larger_than_the_training_set(self, pets):
        data = open_small(pets, images=40, bank_images=200)
        assert (len(data.train), len(data.bank)) == (40, 200)
        assert set(numbers(data.train)) <= set(numbers(data.bank))

    def test_images_beyond_memory_are_decoded_on_demand_and_the_bank_is_not(self, pets):
        data = open_small(pets, memory_limit=60 * 3 * SIZE**2)
        assert isinstance(data.train, ImagesOnDemand)
        assert not isinstance(data.bank, ImagesOnDemand)
        assert not set(numbers(data.train)) & set(numbers(data.queries))

    def test_evaluation_images_of_the_same_classes_borrow_the_training_labels(self, pets, tmp_path):
        held = tar(tmp_path / "val.tar", class_files({"dog": 30, "cat": 30}, first=1000))
        data = open_small(pets, held)
        assert min(numbers(data.queries)) >= 1000
        assert max(numbers(data.bank)) < 1000
        assert len(data.train) == 300
        assert data.queries.classes == data.bank.classes
        assert [n >= 1030 for n in numbers(data.queries)] == (data.queries.labels == 0).tolist()

    def test_fewer_evaluation_classes_are_numbered_like_the_training_classes(self, tmp_path):
        train = write(tmp_path / "t", class_files({"ant": 40, "bee": 40, "cow": 40}))
        held = write(tmp_path / "v", class_files({"bee": 40, "cow": 40}))
        data = open_small(train, held)
        assert data.queries.classes == ("ant", "bee", "cow")
        assert data.queries.labels.bincount().tolist() == [0, 20, 20]

    def test_evaluation_images_of_other_classes_are_split(self, pets, tmp_path):
        held = write(tmp_path / "birds", class_files({"owl": 50, "wren": 50}, first=1000))
        data = open_small(pets, held, eval_images=60, bank_images=30)
        queries, bank = numbers(data.queries), numbers(data.bank)
        assert (len(queries), len(bank)) == (50, 30)
        assert min(queries + bank) >= 1000
        assert not set(queries) & set(bank)
        assert data.bank.classes == ("owl", "wren")
        assert any("which is split: 30 images to learn from, 50 queries" in n for n in data.notes)

    def test_unlabelled_images_are_enough_to_pretrain_on(self, tmp_path):
        flat = write(tmp_path / "flat", {f"{i}.png": png(i) for i in range(100)})
        data = open_small(flat)
        assert data.bank is None
        assert data.queries.labels is None
        assert (len(data.choose), len(data.report)) == (0, 0)
        assert not set(numbers(data.train)) & set(numbers(data.queries))
        assert any(note.startswith("no labels") for note in data.notes)

    def test_unlabelled_training_with_labelled_evaluation(self, tmp_path, pets):
        flat = write(tmp_path / "flat", {f"{i}.png": png(1000 + i) for i in range(100)})
        data = open_small(flat, pets)
        assert min(numbers(data.train)) >= 1000
        assert max(numbers(data.bank) + numbers(data.queries)) < 1000
        assert len(data.choose) + len(data.report) == 40

    def test_one_folder_to_train_on_counts_as_unlabelled(self, tmp_path):
        data = open_small(write(tmp_path / "one", class_files({"cat": 100})))
        assert data.bank is None
        assert data.queries.labels is None
        assert any("of one class" in note for note in data.notes)

    def test_a_folder_of_splits_gives_both_sides(self, tmp_path):
        root = write(tmp_path / "set" / "train", class_files({"a": 50, "b": 50})).parent
        write(root / "val", class_files({"a": 40, "b": 40}, first=1000))
        for data in (open_small(root), open_small(root, root)):
            assert max(numbers(data.train)) < 1000 <= min(numbers(data.queries))
            assert data.queries.classes == ("a", "b")

    def test_the_same_images_on_both_sides_are_split(self, pets):
        data = open_small(pets, f"{pets}/../pets")
        assert not set(numbers(data.train)) & set(numbers(data.queries))
        assert any("names the same data as --data" in note for note in data.notes)

    def test_progress_reaches_the_end_of_every_set(self, pets):
        seen: list[tuple[int, int]] = []
        open_small(pets, progress=lambda done, total: seen.append((done, total)))
        assert [pair for pair in seen if pair[0] == pair[1]] == [(40, 40), (260, 260)]

    def test_a_few_bad_files_are_left_out_and_counted(self, pets):
        for name in ("cat/000.png", "dog/050.png"):
            (pets / name).write_bytes(b"")
        data = open_small(pets)
        assert len(data.train) + len(data.queries) == 298
        assert not {0, 250} & {*numbers(data.train), *numbers(data.queries)}
        assert sum("cannot be read left out" in note for note in data.notes) >= 1

    @pytest.mark.parametrize(("count", "wanted", "held"), [
        (20_000, 2000, 2000), (20_000, 0, 4000), (1000, 600, 256), (300, 600, 150),
        (2000, 600, 400),
    ])  # fmt: skip
    def test_how_many_are_held_out(self, count, wanted, held):
        assert held_out(count, wanted) == held

    @pytest.mark.parametrize(
        ("sides", "size"), [([32] * 16, 32), ([28], 32), ([100, 99, 500], 96), ([900], 224)]
    )
    def test_the_image_size_follows_the_data(self, sides, size):
        assert follow_size(sides, 224) == size

    def test_the_image_size_is_that_of_the_first_images(self, tmp_path):
        root = write(tmp_path, {f"{i}.png": png(i, size=75) for i in range(80)})
        assert open_small(root).train.image_size == 72
        assert open_small(root, max_image_size=64).train.image_size == 64
        assert open_small(root, image_size=40).train.batch(torch.tensor([0])).shape[2:] == (40, 40)


class TestScenes:
    def test_are_there_without_a_file_and_never_shared_between_sides(self):
        data = open_small("scenes", images=60, eval_images=40, bank_images=50)
        assert (len(data.train), len(data.bank), len(data.queries)) == (60, 50, 40)
        assert data.train.image_size == 32
        everything = [
            images.batch(torch.arange(len(images))) for images in (data.train, data.queries)
        ]
        assert len(torch.cat(everything).flatten(1).unique(dim=0)) == 100
        expected = generate_scenes(40, 32, seed=0, start=0)
        assert torch.equal(everything[1], expected.images)
        assert torch.equal(data.queries.labels, expected.labels)
        assert torch.equal(data.bank.batch(torch.arange(50)), everything[0][:50])

    def test_too_many_for_the_memory_are_refused(self):
        with pytest.raises(UserError, match="enough for 85: lower --images"):
            open_small("scenes", images=4000, image_size=64, memory_limit=2**20)

    def test_can_evaluate_other_data(self, pets):
        data = open_small(pets, "scenes")
        assert len(data.bank.classes) == len(data.queries.classes) == 10
        assert len(data.bank) == 50


class TestRefusals:
    """Every one of these is a single line that says what, where and what to do."""

    def check(self, words: list[str], data: object, eval_data: object = None, **settings: object):
        with pytest.raises(UserError) as caught:
            open_small(data, eval_data, **settings)
        message = str(caught.value)
        assert "\n" not in message
        for word in words:
            assert word in message
        return message

    def test_a_missing_path_names_its_nearest_neighbour(self, pets):
        self.check(["does not exist", "did you mean", f"{pets}"], pets.parent / "petz")
        self.check(["nearest folder that exists", str(pets.parent)], pets.parent / "xyz" / "train")

    def test_an_empty_folder(self, tmp_path):
        self.check([str(tmp_path), "is empty"], tmp_path)

    def test_a_folder_of_other_files(self, tmp_path):
        write(tmp_path, {"notes.txt": b"x", "table.csv": b"y"})
        self.check(["2 files, none an image", "'notes.txt'", ".png"], tmp_path)

    def test_a_folder_of_files_that_only_look_like_images(self, tmp_path):
        write(tmp_path, {f"{i}.png": b"text" for i in range(100)})
        self.check(["none of its 100 images can be read", "0.png"], tmp_path)
        self.check(["40 of 40 images cannot be read", ".png, "], tmp_path, image_size=32)

    def test_many_bad_files_name_a_few(self, pets):
        for file in list((pets / "dog").iterdir())[:60]:
            file.write_bytes(b"")
        self.check(["images cannot be read", "dog/", "…", "mend or remove"], pets)

    def test_too_few_images(self, tmp_path):
        small = write(tmp_path / "small", class_files({"a": 20, "b": 20}))
        self.check(["40 images", "64 are needed", "--eval-data"], small)
        large = write(tmp_path / "large", class_files({"a": 60, "b": 60}))
        tiny = write(tmp_path / "tiny", class_files({"a": 5, "b": 5}))
        self.check([str(tiny), "10 images", "32"], large, tiny)
        self.check(["8 images to train on", "32"], large, images=8)

    def test_labelled_evaluation_of_one_class(self, pets, tmp_path):
        one = write(tmp_path / "one", class_files({"cat": 60}))
        self.check([str(one), "one class only (cat)", "two classes"], pets, one)

    def test_splits_inside_an_archive(self, tmp_path):
        path = tar(tmp_path / "all.tar", class_files({"train/a": 20, "val/a": 20}))
        self.check(["splits (train, val)", "--eval-data"], path)

    @pytest.mark.parametrize("content", ["nothing", "text", "cut", "gzip", "no images"])
    def test_an_archive_that_cannot_be_read(self, tmp_path, content):
        path = tar(tmp_path / "set.tar", class_files({"a": 5}))
        if content == "gzip":
            with tarfile.open(path, "w:gz") as archive:
                archive.add(Path(__file__), "a/1.png")
        elif content == "no images":
            tar(path, {"readme.md": b"x"})
        else:
            whole = path.read_bytes()
            path.write_bytes({"nothing": b"", "text": b"text" * 500, "cut": whole[:2600]}[content])
        words = ["none an image"] if content == "no images" else ["cannot be read as a tar"]
        self.check([str(path), *words], path)

    def test_a_file_that_is_no_archive(self, tmp_path):
        file = write(tmp_path, {"one.png": png(0)}) / "one.png"
        self.check(["neither a folder nor a .tar"], file)

    def test_a_prefix_with_a_slip(self):
        self.check(["hdfs/food101", "did you mean the prefix 'hfds/'", "wds/"], "hdfs/food101")

    def test_a_torchvision_dataset_that_timm_does_not_know(self):
        self.check(["'cifar11'", "did you mean 'cifar10'", "choices"], "torch/cifar11")

    def test_a_dataset_that_is_not_on_disk(self, tmp_path):
        words = ["torch/cifar10", str(tmp_path), "not found", "--download", "--data-dir"]
        self.check(words, "torch/cifar10", data_dir=tmp_path)
        assert list(tmp_path.iterdir()) == [], "nothing is downloaded or made"

    @pytest.mark.parametrize(
        ("prefix", "package"),
        [("hfds", "datasets"), ("hfids", "datasets"), ("tfds", "tensorflow-datasets")],
    )
    def test_a_prefix_whose_package_is_missing(self, prefix, package, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        self.check([f"{prefix}/x", f"pip install {package}"], f"{prefix}/x")


def write_mnist(root: Path, count: int, prefix: str, first: int) -> None:
    """MNIST's own files (idx: big-endian sizes, then bytes); image i has brightness first + i."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    pixels = np.repeat(np.arange(first, first + count, dtype=np.uint8), 28 * 28)
    (raw / f"{prefix}-images-idx3-ubyte").write_bytes(
        struct.pack(">IIII", 0x803, count, 28, 28) + pixels.tobytes()
    )
    labels = (np.arange(count) % 10).astype(np.uint8)
    (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(
        struct.pack(">II", 0x801, count) + labels.tobytes()
    )


class TestTimmDatasets:
    @pytest.fixture
    def mnist(self, tmp_path: Path) -> Path:
        write_mnist(tmp_path, 100, "train", 0)
        write_mnist(tmp_path, 80, "t10k", 150)
        return tmp_path

    def brightness(self, images: Images) -> list[int]:
        return images.batch(torch.arange(len(images)))[:, 0, 5, 5].tolist()

    def test_torchvision_splits_serve_both_sides(self, mnist):
        data = open_small("torch/mnist", "torch/mnist", data_dir=mnist)
        assert max(self.brightness(data.train)) < 100
        assert min(self.brightness(data.queries)) >= 150
        assert data.train.image_size == 32
        assert len(data.queries.classes) == 10
        expected = [(value - 150) % 10 for value in self.brightness(data.queries)]
        assert data.queries.labels.tolist() == expected

    def test_a_split_can_be_named(self, mnist):
        data = open_small("torch/mnist#test", data_dir=mnist, eval_images=20)
        assert min(self.brightness(data.train)) >= 150
        assert not set(self.brightness(data.train)) & set(self.brightness(data.queries))

    def test_huggingface_datasets_on_disk(self, tmp_path):
        datasets = pytest.importorskip("datasets")
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        kinds = {"img": datasets.Image(), "kind": datasets.ClassLabel(names=["a", "b"])}
        (tmp_path / "set" / "data").mkdir(parents=True)
        for split, first in (("train", 0), ("test", 1000)):
            columns = {
                "img": [{"bytes": png(first + i), "path": None} for i in range(80)],
                "kind": [i % 2 for i in range(80)],
            }
            table = arrow.table(columns, schema=datasets.Features(kinds).arrow_schema)
            parquet.write_table(
                table, tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet"
            )
        for prefix in ("hfds", "hfids"):
            spec = f"{prefix}/{tmp_path / 'set'}"
            data = open_small(spec, spec, images=40, eval_images=40, data_dir=tmp_path / "cache")
            assert max(numbers(data.train)) < 1000 <= min(numbers(data.queries))
            assert data.queries.classes == ("a", "b")
            assert data.queries.labels.tolist() == [n % 2 for n in numbers(data.queries)]
            with pytest.raises(UserError, match="--download"):
                open_small(f"{prefix}/nobody/nothing")

    def test_webdatasets(self, tmp_path):
        for shard in range(2):
            files = {}
            for i in range(80):
                number = shard * 80 + i
                files[f"{number:04d}.png"] = png(number)
                files[f"{number:04d}.cls"] = str(number % 3).encode()
            tar(tmp_path / f"set-{shard:04d}.tar", files)
        data = open_small(f"wds/{tmp_path}", images=50)
        assert not set(numbers(data.train)) & set(numbers(data.queries))
        assert data.queries.classes == ("0", "1", "2")
        assert data.queries.labels.tolist() == [n % 3 for n in numbers(data.queries)]
        one = open_small(f"wds/{tmp_path}#set-0001.tar", images=40, eval_images=20)
        assert min(numbers(one.train)) >= 80
        (tmp_path / "empty").mkdir()
        with pytest.raises(UserError, match=r"no \.tar shards"):
            open_small(f"wds/{tmp_path / 'empty'}")
        info = {"splits": {"train": {"name": "train", "num_samples": 80, "shard_lengths": [80],
                                     "filenames": ["set-0000.tar"]}}}  # fmt: skip
        (tmp_path / "_info.json").write_text(json.dumps(info))
        described = open_small(f"wds/{tmp_path}", images=0, eval_images=0, bank_images=0)
        assert sorted(numbers(described.train) + numbers(described.queries)) == list(range(80))


CIFAR10 = Path(
    os.environ.get("HEADSEARCH_CIFAR10", Path(__file__).parents[3] / "shared" / "data" / "cifar10")
)


@pytest.mark.skipif(not (CIFAR10 / "train.tar").exists(), reason="CIFAR-10 is not here")
def test_cifar10_archives():
    data = open_small(CIFAR10 / "train.tar", CIFAR10 / "val.tar", images=200, eval_images=100)
    assert (len(data.train), len(data.bank), len(data.queries)) == (200, 50, 100)
    assert data.train.image_size == 32
    assert len(data.queries.classes) == 10
    assert data.queries.labels.bincount().tolist() == [10] * 10
    assert data.bank.labels.bincount().tolist() == [5] * 10
    batch = data.train.batch(torch.arange(200)).float()
    assert 90 < float(batch.mean()) < 150
    assert float(batch.std()) > 40
