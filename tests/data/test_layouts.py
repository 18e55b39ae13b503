"""Sets as they lie on disk: splits and shards are no classes, and `--labels` decides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from headsearch.data import open_data
from headsearch.data.image.labelling import AUTO, Labelling
from headsearch.data.image.layouts import kind_of_archives, kind_of_folders, split_word
from headsearch.data.image.readers import open_path
from headsearch.errors import UserError
from helpers.image_files import SMALL, class_files, numbers, open_small, png, tar, write


def images(folder: str, first: int, count: int, width: int = 9) -> dict[str, bytes]:
    return {f"{folder}/{n:0{width}d}.png": png(n) for n in range(first, first + count)}


@pytest.mark.parametrize(
    ("name", "word"),
    [("train", "train"), ("Val", "val"), ("train2017", "train"), ("val2014", "val"),
     ("test-dev2015", "test"), ("unlabeled2017", "unlabeled"), ("test_set", "test"),
     ("trains", None), ("cat", None), ("2017", None), ("testudo", None), ("train12", None)],
)  # fmt: skip
def test_names_of_splits(name: str, word: str | None) -> None:
    assert split_word(name) == word


def kind(files: dict[str, bytes] | list[str]) -> str:
    return kind_of_folders(list(files), [file.split("/")[0] for file in files])


def test_folders_that_are_shards_and_folders_that_are_classes() -> None:
    img2dataset = [f"{s:05d}/{s:05d}{n:04d}.jpg" for s in range(3) for n in range(0, 90, 7)]
    ffhq = [f"{s:05d}/{s + n:05d}.png" for s in (0, 1000, 2000) for n in range(5)]
    gtsrb = [f"{c:05d}/{t:05d}_{n:05d}.ppm" for c in range(3) for t in range(4) for n in range(3)]
    assert kind(img2dataset) == kind(ffhq) == "shards"
    assert kind(gtsrb) == "classes", "each folder counts from the start"
    assert kind(["part-0/a.jpg", "part-1/b.jpg"]) == "shards"
    assert kind(["train_0/a.jpg", "train_1/b.jpg"]) == "shards"
    assert kind([f"{c}/{n:05d}.png" for c in range(10) for n in range(c, 90, 10)]) == "classes"
    assert kind(["n01440764/n01440764_3.JPEG", "n01443537/n01443537_9.JPEG"]) == "classes"
    assert kind(["00000/a.jpg", "00001/b.jpg"]) == "unclear"
    assert kind(["train2017/1.jpg", "val2017/2.jpg"]) == "splits"


def test_archives_that_are_shards_and_archives_that_are_classes() -> None:
    assert kind_of_archives(["00000", "00001"]) == "shards"
    assert kind_of_archives(["imagenet-train-000000", "imagenet-train-000007"]) == "shards"
    assert kind_of_archives(["n01440764", "n01443537"]) == "classes"
    assert kind_of_archives(["cat", "dog"]) == "classes"


def test_coco_trains_on_one_split_and_evaluates_on_the_other(tmp_path: Path) -> None:
    root = write(tmp_path / "coco", images("train2017", 0, 60, 12) | images("val2017", 1000, 60))
    write(root, {"annotations/instances_val2017.json": b"{}"} | images("unlabeled2017", 2000, 9))
    data = open_small(root)
    assert sorted(numbers(data.train)) == list(range(60))
    assert 1000 <= min(numbers(data.queries)) < max(numbers(data.queries)) < 2000
    assert data.bank is None
    assert f"{root}: trains on train2017, evaluates on val2017" in data.notes


def test_open_images_has_splits_of_plain_images(tmp_path: Path) -> None:
    root = write(tmp_path / "oi", images("train", 0, 60) | images("validation", 1000, 60))
    data = open_small(root)
    assert max(numbers(data.train)) < 1000 <= min(numbers(data.queries))
    assert data.bank is None


def img2dataset(shards: int = 3, count: int = 30) -> dict[str, bytes]:
    files = {}
    for shard in range(shards):
        for number in range(count):
            key = f"{shard:05d}/{shard:05d}{number:04d}"
            files |= {f"{key}.png": png(shard * count + number), f"{key}.txt": b"a caption",
                      f"{key}.json": b'{"caption": "x"}'}  # fmt: skip
        files[f"{shard:05d}_stats.json"] = b"{}"
    return files


def test_img2dataset_folders_are_shards_not_classes(tmp_path: Path) -> None:
    root = write(tmp_path / "web", img2dataset())
    data = open_small(root)
    assert data.bank is None
    assert sorted(numbers(data.train) + numbers(data.queries)) == list(range(90))
    assert any(
        "its folders (00000, 00001, 00002, …) are shards, not classes; --labels folders" in note
        for note in data.notes
    )
    assert len(open_small(root, labels="folders").queries.classes) == 3


def test_files_beside_images_are_counted_by_ending_not_listed_one_by_one(tmp_path: Path) -> None:
    root = write(tmp_path / "web", img2dataset())
    assert open_small(root).left_out.lines == [
        f"{root}: {name}: not called like an image"
        for name in ("00000_stats.json", "00001_stats.json", "00002_stats.json",
                     "90 files *.json beside the images", "90 files *.txt beside the images")
    ]  # fmt: skip


def test_where_it_is_not_clear_the_flag_decides(tmp_path: Path) -> None:
    files = {f"{s:05d}/{'abcdefghij'[n]}{s}x.png": png(s * 10 + n) for s in range(10)
             for n in range(10)}  # fmt: skip
    root = write(tmp_path / "set", files)
    with pytest.raises(UserError, match=r"classes or shards is not clear: --labels folders takes"):
        open_small(root)
    assert len(open_small(root, labels="folders").queries.classes) == 10
    assert open_small(root, labels="none").bank is None


def test_labels_none_and_folders(tmp_path: Path) -> None:
    root = write(tmp_path / "pets", class_files({"cat": 50, "dog": 50}))
    assert open_small(root, labels="none").queries.labels is None
    assert open_small(root, labels="folders").queries.classes == ("cat", "dog")
    flat = write(tmp_path / "flat", {f"{n}.png": png(n) for n in range(80)})
    with pytest.raises(UserError, match=r"--labels folders needs each image in a folder"):
        open_small(flat, labels="folders")
    splits = tar(tmp_path / "all.tar", class_files({"train/a": 40, "val/a": 40}))
    with pytest.raises(UserError, match=r"splits \(train, val\).*or --labels folders takes"):
        open_small(splits)
    assert open_small(splits, labels="none").bank is None


@pytest.mark.parametrize(
    ("file", "row"),
    [("labels.csv", "image,label\n"), ("labels.txt", "{}.png {}"), ("labels.tsv", "{}.png\t{}"),
     ("labels.csv", "{},{}"), ("labels.txt", "set/{}.png,{}")],
)  # fmt: skip
def test_labels_of_a_file(file: str, row: str, tmp_path: Path) -> None:
    root = write(tmp_path / "set", {f"img{n}.png": png(n) for n in range(100)})
    header, row = (row, "{}.png,{}\n") if row.startswith("image,") else ("", row.strip() + "\n")
    table = tmp_path / file
    lines = "".join(row.format(f"img{n}", n % 12) for n in range(100))
    table.write_text(header + lines)
    data = open_small(root, labels=str(table))
    assert data.queries.classes == tuple(map(str, range(12)))
    assert data.queries.labels.tolist() == [n % 12 for n in numbers(data.queries)]
    assert f"{root}: labels are read from {table}" in data.notes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("other.png,cat\n", "names none of the 100 images"),
        ("img0.png,cat\n", r"no label for 99 of the 100 images .*'img1\.png'"),
        ("img0.png\nimg1.png\n", "has no labels"),
        ("img0.png,cat\nimg0.png,dog\n", "several labels"),
        ("a,b,c\n1,2,3\n", "3 columns and no header"),
        ("label,class,image\nx,y,img0.png\n", "which column holds the labels is not clear"),
        ("image,label\n", "no rows"),
        ("img0.png,cat\nimg1.png\n", "row 2 has 1 column"),
    ],
)
def test_a_wrong_file_of_labels_is_one_line(text: str, words: str, tmp_path: Path) -> None:
    root = write(tmp_path / "set", {f"img{n}.png": png(n) for n in range(100)})
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        open_small(root, labels=str(tmp_path / "labels.csv"))
    assert "\n" not in str(caught.value)


def test_a_file_of_labels_that_is_not_there(tmp_path: Path) -> None:
    root = write(tmp_path / "set", {f"img{n}.png": png(n) for n in range(100)})
    with pytest.raises(UserError, match=r"--labels is auto, folders, none or a file, and 'foldrs'"):
        open_small(root, labels="foldrs")


def kaggle(root: Path) -> Path:
    train = {f"n0{c}/n0{c}_{n}.JPEG": png(100 * c + n) for c in (1, 2) for n in range(50)}
    place = write(root / "ILSVRC" / "Data" / "CLS-LOC" / "train", train).parent
    rows = []
    for number in range(1, 61):
        name = f"ILSVRC2012_val_{number:08d}"
        write(place, {f"val/{name}.JPEG": png(1000 + number)})
        write(place, {f"test/ILSVRC2012_test_{number:08d}.JPEG": png(2000 + number)})
        write(root, {f"ILSVRC/Annotations/CLS-LOC/val/{name}.xml": b"<x/>"})
        rows.append(f"{name},n0{1 + number % 2} 1 2 3 4 n0{1 + number % 2} 5 6 7 8 \n")
    (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(rows))
    return place


def test_imagenet_as_kaggle_has_it(tmp_path: Path) -> None:
    place = kaggle(tmp_path / "imagenet")
    cases = [(tmp_path / "imagenet", None), (place, None), (place / "train", place / "val")]
    for data, eval_data in cases:
        opened = open_small(data, eval_data)
        assert opened.queries.classes == opened.bank.classes == ("n01", "n02")
        assert max(numbers(opened.train)) < 1000 <= min(numbers(opened.queries))
        assert opened.queries.labels.tolist() == [n % 2 for n in numbers(opened.queries)]
    flags = [note for note in open_small(place).notes if "--eval-data" in note]
    assert flags == [], "no hint about a flag that nobody gave"


def test_validation_labels_of_a_file_beside_labelled_training_folders(tmp_path: Path) -> None:
    train = write(tmp_path / "train", class_files({"cat": 50, "dog": 50}))
    val = write(tmp_path / "val", {f"v{n}.png": png(1000 + n) for n in range(60)})
    table = tmp_path / "val.csv"
    table.write_text("".join(f"v{n},{['cat', 'dog'][n % 2]}\n" for n in range(60)))
    data = open_small(train, val, labels=str(table))
    assert data.queries.classes == ("cat", "dog")
    assert data.queries.labels.tolist() == [n % 2 for n in numbers(data.queries)]
    assert f"{train}: {table} names none of its images" in data.notes


def test_every_reader_gives_the_bytes_of_its_files(tmp_path: Path) -> None:
    files = class_files({"cat": 3, "dog": 3})
    folder = open_path(write(tmp_path / "set", files), "set")
    archive = open_path(tar(tmp_path / "set.tar", files), "set.tar", labelling=AUTO)
    none = open_path(tmp_path / "set", "set", labelling=Labelling("none"))
    for source in (folder, archive, none):
        assert [source.read(i) for i in range(6)] == list(files.values())
    assert none.labels is None
    assert torch.equal(folder.labels, archive.labels)


def test_sets_that_bring_their_labels(tmp_path: Path) -> None:
    pets = open_path(write(tmp_path / "pets", class_files({"cat": 50, "dog": 50})), "pets")
    assert open_data(pets, settings=replace(SMALL, labels="none")).bank is None
    with pytest.raises(UserError, match=r"--labels folders is for image files"):
        open_data(pets, settings=replace(SMALL, labels="folders"))
    with pytest.raises(UserError, match=r"--labels none: the images of scenes have labels"):
        open_small("scenes", images=60, labels="none")


class TestAnnotations:
    """Masks beside images are neither a class nor images to train on."""

    def test_masks_beside_images_are_left_out(self, tmp_path: Path):
        files = {f"images/{n}.png": png(n) for n in range(80)}
        masks = {f"masks/{n}.png": png(1000 + n) for n in range(80)}
        data = open_small(write(tmp_path / "set", files | masks))
        assert data.bank is None
        assert max(numbers(data.train) + numbers(data.queries)) < 80
        assert any("80 images in masks left out as annotations" in note for note in data.notes)

    def test_splits_below_them_are_found(self, tmp_path: Path):
        names = {"train": range(60), "val": range(100, 140)}
        files = {f"images/{s}/{n}.png": png(n) for s, ns in names.items() for n in ns}
        masks = {f.replace("images", "SegmentationClass"): png(1000) for f in files}
        data = open_small(write(tmp_path / "set", files | masks))
        assert max(numbers(data.train)) < 60
        assert 100 <= min(numbers(data.queries)) <= max(numbers(data.queries)) < 140

    def test_classes_of_these_names_stay_classes(self, tmp_path: Path):
        root = write(tmp_path / "set", class_files({"masks": 60, "gloves": 60}))
        assert open_small(root).queries.classes == ("gloves", "masks")
