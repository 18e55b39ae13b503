"""What `--dense-data` understands: formats, classes, void, boxes, and what it refuses."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from headsearch.data.dense import VOID, DenseData, DenseSettings, Objects, open_dense
from headsearch.data.dense.images import GROUPS
from headsearch.data.dense.loading import turned_boxes
from headsearch.data.dense.mask_files import class_names
from headsearch.data.dense.outlines import BadOutline, Polygons, RunLengths, from_compressed
from headsearch.data.dense.tiles import objects_in, tile_counts, tiles_of
from headsearch.errors import UserError
from helpers import dense_files
from helpers.dense_files import HEIGHT, IMAGES, TRAINED, WIDTH, indices, pixels, save

SIZE = 16


def opened(spec: Path | str, **settings: Any) -> DenseData:
    return open_dense(str(spec), DenseSettings(SIZE, **settings))


def refused(spec: Path | str, **settings: Any) -> str:
    with pytest.raises(UserError) as error:
        opened(spec, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


# folders of images and masks


@pytest.mark.parametrize("mode", [None, "P"])
def test_folders_of_images_and_masks(tmp_path: Path, mode: str | None) -> None:
    """A palette PNG gives its indices, not the brightness of its colours."""
    data = opened(dense_files.folders(tmp_path, mode=mode))
    assert (len(data.train), len(data.evaluation)) == (TRAINED, IMAGES - TRAINED)
    assert data.mask_classes == ("0", "1", "2")
    assert data.train.masks is not None
    expected = indices(3).astype(np.int16)
    expected[expected == 255] = VOID
    assert np.array_equal(data.train.masks[3].numpy(), expected)
    assert data.train.pixels.shape == (TRAINED, 3, SIZE, SIZE)
    text = "\n".join(data.notes)
    assert "15 images to fit proxies on, 45 to score them on" in text
    assert re.search(r"masks of 3 classes \(0, 1, 2\), 6\.2% of the pixels void", text)


def test_names_come_from_a_file_beside_the_folders(tmp_path: Path) -> None:
    dense_files.folders(tmp_path)
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    assert opened(tmp_path).mask_classes == ("sky", "road", "car")


def test_masks_of_0_and_255_are_binary_and_255_is_not_void(tmp_path: Path) -> None:
    data = opened(dense_files.folders(tmp_path, mask=lambda n: indices(n) % 2 * 255))
    assert data.mask_classes == ("background", "object")
    assert data.train.masks is not None
    assert set(data.train.masks[0].unique().tolist()) == {0, 1}


def test_masks_of_one_bit(tmp_path: Path) -> None:
    data = opened(dense_files.folders(tmp_path, mask=lambda n: indices(n) == 1))
    assert data.train.masks is not None
    assert set(data.train.masks[0].unique().tolist()) == {0, 1}


COLOURS = np.array([[10, 20, 30], [200, 0, 0], [0, 0, 0]], dtype=np.uint8)


def in_colours(number: int) -> np.ndarray:
    return COLOURS[np.minimum(indices(number), 2)]


def test_masks_in_colours_need_a_map(tmp_path: Path) -> None:
    dense_files.folders(tmp_path / "set", mask=in_colours)
    assert "--dense-classes" in refused(tmp_path / "set")
    names = tmp_path / "names.txt"
    names.write_text("road 10 20 30\ncar 200 0 0\nvoid 0 0 0\n")
    data = opened(tmp_path / "set", classes=str(names))
    assert data.mask_classes == ("road", "car")
    assert data.train.masks is not None
    assert set(data.train.masks[0].unique().tolist()) == {VOID, 0, 1}
    names.write_text("road 10 20 30\ncar 200 0 0\n")
    assert "the colour (0, 0, 0), which no class has" in refused(
        tmp_path / "set", classes=str(names)
    )


@pytest.mark.parametrize(
    ("text", "names", "colours"),
    [
        ("a\nb c\n", ("a", "b c"), {}),
        ("0 background\n1 person\n", ("background", "person"), {}),
        ("name,r,g,b\nroad,1,2,3\nVoid,0,0,0\ncar,4,5,6", ("road", "car"),
         {(1, 2, 3): 0, (0, 0, 0): VOID, (4, 5, 6): 1}),
        ("64 128 64\tAnimal\n192 0 128\tArch", ("Animal", "Arch"),
         {(64, 128, 64): 0, (192, 0, 128): 1}),
        ("# label:color_rgb:parts:actions\nroad:1,2,3::", ("road",), {(1, 2, 3): 0}),
    ],
)  # fmt: skip
def test_files_of_class_names(text: str, names: tuple[str, ...], colours: Any) -> None:
    assert class_names(text.splitlines()) == (names, colours)


def test_a_set_without_splits_holds_out_contiguous_parts(tmp_path: Path) -> None:
    data = opened(dense_files.folders(tmp_path, count=130, split=False))
    assert len(data.train) + len(data.evaluation) == 130
    held_out = [int(name[:3]) for name in data.evaluation.names]
    jumps = sum(b != a + 1 for a, b in itertools.pairwise(held_out))
    assert jumps == 4
    assert "held out" in "\n".join(data.notes)


def test_two_folders_are_training_and_evaluation(tmp_path: Path) -> None:
    first = dense_files.folders(tmp_path / "a", count=12, split=False)
    for number in range(50):
        save(tmp_path / "b/images" / f"{number}.png", pixels(500 + number))
        save(tmp_path / "b/masks" / f"{number}_mask.png", indices(number))
    data = opened(f"{first},{tmp_path / 'b'}")
    assert (len(data.train), len(data.evaluation)) == (12, 50)


def test_train_with_trainannot(tmp_path: Path) -> None:
    for split, count in (("train", 12), ("val", 42)):
        for number in range(count):
            save(tmp_path / split / f"{number}.png", pixels(number + 100 * count))
            save(tmp_path / f"{split}annot" / f"{number}.png", indices(number))
    assert len(opened(tmp_path).evaluation) == 42


def test_groups_are_contiguous_and_alternate_between_the_halves(tmp_path: Path) -> None:
    group_N = opened(dense_files.folders(tmp_path)).group_N
    assert (group_N.diff() >= 0).all()
    assert group_N.unique().tolist() == list(range(2 * GROUPS))


def test_large_sets_are_thinned_evenly(tmp_path: Path) -> None:
    data = opened(dense_files.folders(tmp_path), evaluation_images=40)
    assert len(data.evaluation) == 40
    assert data.evaluation.names[-1] == "058.png"
    assert "40 of 45 images" in "\n".join(data.notes)


# other formats


def test_coco(tmp_path: Path) -> None:
    data = opened(dense_files.coco(tmp_path))
    assert data.box_classes == ("cat", "dog")
    assert data.train.objects is not None
    first = data.train.objects[0]
    box = torch.tensor([4 / WIDTH, 2 / HEIGHT, 12 / WIDTH, 10 / HEIGHT])
    assert torch.allclose(first.boxes[0], box)
    assert first.labels.tolist() == [0, 1, 0]
    assert first.ignored.tolist() == [False, False, True]
    assert first.masks is not None
    assert first.masks[:2].all(), "both objects fill their boxes"
    assert data.has_instance_masks
    # Without masks beside the JSON, they are drawn from the objects: the crowd is void.
    assert data.mask_classes == ("background", "cat", "dog")
    assert data.train.masks is not None
    mask = data.train.masks[0]
    assert int((mask > 0).sum()) == 64
    assert "boxes with masks of 2 classes (cat, dog)" in "\n".join(data.notes)


def test_coco_supercategories(tmp_path: Path) -> None:
    entries = dense_files.coco_entries()
    entries["categories"].append({"id": 90, "name": "cup", "supercategory": "kitchen"})
    data = opened(dense_files.coco(tmp_path, entries), classes="supercategory")
    assert data.box_classes == ("animal", "kitchen")


def test_voc_boxes_count_from_one_and_include_the_last_pixel(tmp_path: Path) -> None:
    boxes = [("dog", (1, 1, WIDTH, HEIGHT), 0), ("cat", (2, 3, 12, 8), 1)]
    data = opened(dense_files.voc(tmp_path, boxes))
    assert data.box_classes == ("cat", "dog")
    assert (len(data.train), len(data.evaluation)) == (15, 45)
    assert data.train.objects is not None
    found = data.train.objects[0]
    assert found.boxes[0].tolist() == [0, 0, 1, 1]
    assert torch.allclose(found.boxes[1], torch.tensor([1 / 24, 2 / 16, 12 / 24, 8 / 16]))
    assert found.labels.tolist() == [1, 0]
    assert found.ignored.tolist() == [False, True]
    assert data.train.masks is None


def test_yolo(tmp_path: Path) -> None:
    for split, count in (("train", 12), ("val", 41)):
        for number in range(count):
            save(tmp_path / "images" / split / f"{number}.png", pixels(number + 100 * count))
            labels = tmp_path / "labels" / split / f"{number}.txt"
            labels.parent.mkdir(parents=True, exist_ok=True)
            labels.write_text("1 0.5 0.5 0.5 0.25\n0 0.1 0.1 0.3 0.1 0.3 0.2\n")
    (tmp_path / "data.yaml").write_text("names: {0: car, 1: bus}\n")
    data = opened(tmp_path)
    assert data.box_classes == ("car", "bus")
    assert data.train.objects is not None
    boxes = data.train.objects[0].boxes
    assert torch.allclose(boxes[0], torch.tensor([0.25, 0.375, 0.75, 0.625]))
    assert torch.allclose(boxes[1], torch.tensor([0.1, 0.1, 0.3, 0.2]))


def test_ade20k_has_no_class_for_0(tmp_path: Path) -> None:
    for split, count in (("training", 12), ("validation", 41)):
        for number in range(count):
            save(tmp_path / "images" / split / f"{number}.png", pixels(number + 100 * count))
            mask = np.minimum(indices(number), 2) * 75
            save(tmp_path / "annotations" / split / f"{number}.png", mask)
    data = opened(tmp_path)
    assert len(data.mask_classes) == 150
    assert data.train.masks is not None
    assert set(data.train.masks[0].unique().tolist()) == {VOID, 74, 149}


def test_cityscapes_scores_19_of_its_34_classes(tmp_path: Path) -> None:
    for split, count in (("train", 12), ("val", 41)):
        for number in range(count):
            name = f"city/city_{number:06}_000019"
            image = tmp_path / "leftImg8bit" / split / f"{name}_leftImg8bit.png"
            save(image, pixels(number + 100 * count))
            values = np.array([7, 26, 0], dtype=np.uint8)[np.minimum(indices(number), 2)]
            save(tmp_path / "gtFine" / split / f"{name}_gtFine_labelIds.png", values)
    data = opened(tmp_path)
    assert data.mask_classes[0] == "road"
    assert data.mask_classes[13] == "car"
    assert data.train.masks is not None
    assert set(data.train.masks[0].unique().tolist()) == {VOID, 0, 13}


def test_pets_have_trimaps_with_a_border_that_is_void(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for number in range(60):
        save(tmp_path / "images" / f"cat_{number}.jpg", pixels(number))
        trimap = np.minimum(indices(number), 2) + 1
        save(tmp_path / "annotations/trimaps" / f"cat_{number}.png", trimap)
    for name, numbers in (("trainval", range(15)), ("test", range(15, 60))):
        text = "".join(f"cat_{number} 1 1 1\n" for number in numbers)
        (tmp_path / "annotations" / f"{name}.txt").write_text(text)
    data = opened(tmp_path)
    assert data.mask_classes == ("background", "animal")
    assert data.train.masks is not None
    assert set(data.train.masks[0].unique().tolist()) == {VOID, 0, 1}


def test_a_format_can_be_named(tmp_path: Path) -> None:
    dense_files.folders(tmp_path)
    assert opened(tmp_path, format="folders").mask_classes
    assert "its layout is not that of --dense-format voc" in refused(tmp_path, format="voc")
    assert "did you mean 'coco'?" in refused(tmp_path, format="cocco")


# turning


@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_turns_image_mask_and_boxes_alike(tmp_path: Path, orientation: int) -> None:
    """A bright rectangle, its mask and its box stay on top of one another."""
    stored = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    stored[2:6, 3:12] = 255
    mask = (stored[..., 0] > 0).astype(np.uint8)
    entries = dense_files.coco_entries()
    for entry in entries["annotations"]:
        entry |= {"bbox": [3, 2, 9, 4], "segmentation": [[3, 2, 12, 2, 12, 6, 3, 6]], "iscrowd": 0}
    dense_files.coco(tmp_path, entries)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for number in range(130):
        image = stored.copy()
        image[-1, -1] = (number, 0, 0)  # no two files are alike
        path = tmp_path / "images" / f"{number:03}.png"
        Image.fromarray(image).save(path, exif=exif)
        save(tmp_path / "masks" / f"{number:03}.png", mask)
    data = opened(tmp_path)
    assert data.train.masks is not None
    assert data.train.objects is not None
    shown = data.train.masks[0]
    assert shown.shape == ((WIDTH, HEIGHT) if orientation >= 5 else (HEIGHT, WIDTH))
    x0, y0, x1, y1 = data.train.objects[0].boxes[0].tolist()
    height, width = shown.shape
    inside = torch.zeros_like(shown)
    inside[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)] = 1
    assert torch.equal(inside, shown)
    bright = data.train.pixels[0, 1].float() > 127
    square = torch.nn.functional.interpolate(
        inside[None, None].float(), (SIZE, SIZE), mode="nearest-exact"
    )[0, 0]
    assert float((bright == (square > 0)).float().mean()) > 0.9


def test_turning_boxes_agrees_with_turning_pixels() -> None:
    pixels_ = np.zeros((8, 6), dtype=np.uint8)
    pixels_[1:3, 2:6] = 1
    box = torch.tensor([[2 / 6, 1 / 8, 1.0, 3 / 8]])
    for turn in Image.Transpose:
        shown = np.asarray(Image.fromarray(pixels_).transpose(turn))
        rows, columns = np.nonzero(shown)
        height, width = shown.shape
        expected = [columns.min() / width, rows.min() / height,
                    (columns.max() + 1) / width, (rows.max() + 1) / height]  # fmt: skip
        assert torch.allclose(turned_boxes(box, turn), torch.tensor([expected]).float()), turn


# tiles


def test_tiles_hold_the_parts_of_image_mask_and_objects(tmp_path: Path) -> None:
    """24×16 pixels in tiles of 8: three columns, two rows."""
    entries = dense_files.coco_entries()
    dense_files.coco(tmp_path, entries)
    for number in range(130):
        save(tmp_path / "masks" / f"{number:03}.png", np.minimum(indices(number), 2))
    data = open_dense(str(tmp_path), DenseSettings(8, tiles=True))
    whole = open_dense(str(tmp_path), DenseSettings(8))
    assert len(data.train) == 6 * len(whole.train)
    assert data.train.pixels.shape[1:] == (3, 8, 8)
    assert data.train.masks is not None
    assert whole.train.masks is not None
    rows = [torch.cat(data.train.masks[first : first + 3], dim=1) for first in (0, 3)]
    assert torch.equal(torch.cat(rows), whole.train.masks[0])
    image = torch.from_numpy(pixels(0)).permute(2, 0, 1)
    assert torch.equal(data.train.pixels[4], image[:, 8:, 8:16])

    # The first object, 4 to 12 by 2 to 10, lies in four tiles; only one shows half of it or more.
    assert data.train.objects is not None
    shown = [each for each in data.train.objects[:6] if len(each.boxes)]
    first = data.train.objects[0]
    assert torch.allclose(first.boxes[0], torch.tensor([0.5, 0.25, 1.0, 1.0]))
    assert first.ignored.tolist() == [True, True]
    assert len(shown) == 6
    assert first.masks is not None
    assert first.masks[0].all()
    assert data.evaluation.source_N is not None
    for source in range(3):
        groups = data.group_N[data.evaluation.source_N == source]
        assert len(groups.unique()) == 1, "tiles of an image are in one group"
    assert "tiles of" in data.notes[0]


def test_the_mask_of_an_object_is_cut_with_its_box() -> None:
    mask = torch.zeros(1, 28, 28, dtype=torch.bool)
    mask[0, :, :14] = True  # its left half
    objects = Objects(
        torch.tensor([[0.25, 0.0, 0.75, 1.0]]), torch.zeros(1).long(), torch.zeros(1).bool(), mask
    )
    left, right = (objects_in(objects, tile) for tile in tiles_of((1, 2)))
    assert left.boxes.tolist() == [[0.5, 0.0, 1.0, 1.0]]
    assert left.masks is not None
    assert right.masks is not None
    assert left.masks.all()
    assert not right.masks.any()
    assert not left.ignored.any(), "just half of it is enough"


@pytest.mark.parametrize(
    ("size", "counts"),
    [((24, 16), (2, 3)), ((8, 8), (1, 1)), ((900, 20), (2, 4)), ((5, 3), (1, 1))],
)
def test_numbers_of_tiles(size: tuple[int, int], counts: tuple[int, int]) -> None:
    assert tile_counts(size, 8) == counts


# bad input


def test_a_mask_of_another_shape_is_refused_and_of_another_size_is_read(tmp_path: Path) -> None:
    larger = dense_files.folders(tmp_path / "a", mask=lambda n: indices(n, 2 * HEIGHT, 2 * WIDTH))
    data = opened(larger)
    assert "60 masks have another size" in re.sub(r"\n", " ", merged(data.notes))
    other = dense_files.folders(tmp_path / "b", mask=lambda n: indices(n, HEIGHT, HEIGHT))
    text = refused(other)
    assert "000.png" in text
    assert "16×16 pixels and its image 000.png 24×16, which is another shape" in text


def merged(notes: tuple[str, ...]) -> str:
    """The notes, with the counts of both sets added up."""
    found: dict[str, int] = {}
    for note in notes:
        number, _, rest = note.partition(" ")
        if number.isdigit():
            rest = rest.partition(" (")[0]
            found[rest] = found.get(rest, 0) + int(number)
    return "\n".join(f"{number} {rest}" for rest, number in found.items())


def test_an_index_beyond_the_classes(tmp_path: Path) -> None:
    dense_files.folders(tmp_path)
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    text = refused(tmp_path)
    assert "the mask has the value 2" in text
    assert "--dense-ignore 2" in text
    data = opened(tmp_path, ignore="2,255")
    assert data.mask_classes == ("sky", "road")
    assert "--dense-ignore a: should be values" in refused(tmp_path, ignore="a")


def test_masks_of_16_bits_and_with_an_alpha_band(tmp_path: Path) -> None:
    wide = dense_files.folders(
        tmp_path / "a", mask=lambda n: np.minimum(indices(n), 2) * np.uint16(1)
    )
    assert opened(wide).mask_classes == ("0", "1", "2")
    depth = dense_files.folders(
        tmp_path / "b", mask=lambda n: indices(n).astype(np.uint16) * np.uint16(200)
    )
    assert "a depth map is no mask" in refused(depth)

    def with_alpha(level: int) -> Callable[[int], np.ndarray]:
        def mask(number: int) -> np.ndarray:
            alpha = np.full((HEIGHT, WIDTH, 1), level, dtype=np.uint8)
            grey = np.minimum(indices(number), 2)[..., None].repeat(3, 2)
            return np.concatenate([grey, alpha], axis=2)

        return mask

    assert opened(dense_files.folders(tmp_path / "c", mask=with_alpha(255))).mask_classes
    text = refused(dense_files.folders(tmp_path / "d", mask=with_alpha(90)))
    assert "transparent pixels" in text


def test_masks_that_are_void_throughout(tmp_path: Path) -> None:
    void = dense_files.folders(
        tmp_path, mask=lambda n: np.full((HEIGHT, WIDTH), 255, np.uint8), mode="P"
    )
    assert "every pixel of the masks" in refused(void)


def test_masks_of_one_class(tmp_path: Path) -> None:
    one = dense_files.folders(tmp_path, mask=lambda n: np.zeros((HEIGHT, WIDTH), np.uint8))
    assert "a single class (0)" in refused(one)


def test_masks_stored_with_loss(tmp_path: Path) -> None:
    for number in range(IMAGES):
        part = "train" if number < TRAINED else "test"
        save(tmp_path / "images" / part / f"{number}.png", pixels(number))
        save(tmp_path / "masks" / part / f"{number}.jpg", indices(number))
    assert "a JPEG changes the values of a mask; store masks as PNG" in refused(tmp_path)


def test_an_image_without_a_mask_is_left_out_and_told(tmp_path: Path) -> None:
    dense_files.folders(tmp_path)
    (tmp_path / "masks/test/020.png").unlink()
    data = opened(tmp_path)
    assert len(data.evaluation) == 44
    assert "1 images without a mask are left out (020.png)" in "\n".join(data.notes)


def test_under_40_images_to_score(tmp_path: Path) -> None:
    text = refused(dense_files.folders(tmp_path, count=TRAINED + 39))
    assert "39 usable images to score proxies on; at least 40 are needed" in text


def test_training_and_evaluation_must_not_overlap(tmp_path: Path) -> None:
    dense_files.folders(tmp_path)
    save(tmp_path / "images/test/020.png", pixels(3))
    text = refused(tmp_path)
    assert "1 image of the evaluation set is in the training set too" in text
    assert "020.png" in text


def test_boxes_outside_empty_and_not_a_number(tmp_path: Path) -> None:
    entries = dense_files.coco_entries()
    for number, box in enumerate(
        ([30, 2, 5, 5], [4, 2, 0, 8], [float("nan"), 2, 8, 8], [20, 2, 12, 8], [1, 1, 5, 5])
    ):
        entries["annotations"][3 * number] |= {"bbox": box, "iscrowd": 0}
    data = opened(dense_files.coco(tmp_path, entries))
    notes = "\n".join(data.notes)
    assert "1 boxes lie outside of their image and are left out (000.png)" in notes
    assert "1 boxes are empty and left out (001.png)" in notes
    assert "1 boxes with NaN or infinite numbers are left out (002.png)" in notes
    assert "1 boxes reach out of their image and are clipped (003.png)" in notes
    assert data.train.objects is not None
    assert len(data.train.objects[0].boxes) == 2
    assert all(float(each.boxes.max()) <= 1 for each in data.train.objects)


def broken(change: Callable[[dict[str, Any]], object]) -> str:
    entries = dense_files.coco_entries(3)
    change(entries)
    return json.dumps(entries)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (broken(lambda e: e["images"].append(e["images"][0])), "two of its images have the id 7"),
        (broken(lambda e: e["annotations"].append(e["annotations"][0])),
         "two of its annotations have the id 1"),
        (broken(lambda e: e["images"][1].update(file_name="../../etc/passwd")),
         "'../../etc/passwd' leads out of the data set's folder"),
        (broken(lambda e: e["images"][1].update(file_name="/etc/passwd")), "leads out of"),
        (broken(lambda e: e["annotations"][0].update(category_id=4)), "category 4, which is not"),
        (broken(lambda e: e["annotations"][0].update(image_id=4)), "of image 4, which is not"),
        (broken(lambda e: e["annotations"][0].update(bbox=[1, 2, "a", 4])), "no box of four"),
        (broken(lambda e: e["annotations"][1]["segmentation"].update(counts=[10**12])),
         "annotation 2: run lengths of 1,000,000,000,000 pixels for an image of 24×16"),
        (broken(lambda e: e["annotations"][1]["segmentation"].update(size=[10**6, 10**6])),
         "annotation 2: run lengths of size"),
        (broken(lambda e: e["annotations"][0].update(segmentation=[[0.0] * 200_002])),
         "annotation 1: a polygon of more than 100,000 corners"),
        (broken(lambda e: e["images"][0].update(width=10**9)), "image 7 has the size"),
        ("[" * 100_000, "is no JSON that can be read"),
        ("{", "is no JSON that can be read"),
    ],
)  # fmt: skip
def test_annotations_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(dense_files.coco(tmp_path, text, count=3))


def test_xml_with_entities_is_refused(tmp_path: Path) -> None:
    dense_files.voc(tmp_path, [("dog", (1, 1, 5, 5), 0)])
    bomb = '<!DOCTYPE a [<!ENTITY a "aaaa">]><annotation>&a;</annotation>'
    (tmp_path / "Annotations/003.xml").write_text(bomb)
    assert "declares a document type" in refused(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "nowhere")
    assert "no images with masks or boxes were found" in refused(tmp_path)
    assert "name one folder, or TRAIN,EVAL" in refused("a,b,c")


# outlines


def test_a_polygon_covers_the_cells_within_it() -> None:
    cover = Polygons(((2, 2, 6, 2, 6, 6, 2, 6),)).cover((0, 0, 8, 8), 8, 8)
    expected = np.zeros((8, 8))
    expected[2:6, 2:6] = 1
    assert np.abs(cover - expected).max() <= 0.5
    assert np.array_equal(cover > 0.5, expected > 0)


def test_run_lengths_go_down_the_columns() -> None:
    cover = RunLengths((2, 3, 7), height=4, width=3).cover((0, 0, 3, 4), 4, 3)
    column_major = np.zeros(12)
    column_major[2:5] = 1
    assert np.array_equal(cover, column_major.reshape(3, 4).T)


def test_compressed_run_lengths_are_those_of_pycocotools() -> None:
    mask = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    rng = np.random.default_rng(0)
    for _ in range(20):
        height, width = rng.integers(3, 60, 2)
        drawn = (rng.random((height, width)) < rng.random()).astype(np.uint8)
        encoded = mask.encode(np.asfortranarray(drawn))
        outline = RunLengths(from_compressed(encoded["counts"]), int(height), int(width))
        cover = outline.cover((0, 0, float(width), float(height)), int(height), int(width))
        assert np.array_equal(cover, drawn)


@pytest.mark.parametrize("text", ["P", "\x07", "~~~~~~~~~~~~~~~~~~"])
def test_compressed_run_lengths_that_are_broken(text: str) -> None:
    with pytest.raises(BadOutline):
        RunLengths(from_compressed(text), 4, 4)


# built in


@pytest.mark.parametrize("name", ["scenes", "scenes-things"])
def test_built_in_sets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from headsearch.data.dense import built_in

    monkeypatch.setattr(built_in, "TRAIN_IMAGES", 20)
    monkeypatch.setattr(built_in, "EVALUATION_IMAGES", 40)
    data = opened(name)
    assert (len(data.train), len(data.evaluation)) == (20, 40)
    assert data.mask_classes[0] == "background"
    assert len(data.box_classes) == 10
    assert data.has_instance_masks
    assert data.train.masks is not None
    assert data.train.objects is not None
    for mask, objects in zip(data.train.masks, data.train.objects, strict=True):
        assert set((objects.labels + 1).tolist()) <= set(mask.unique().tolist())
        for (x0, y0, x1, y1), label in zip(
            (objects.boxes * SIZE).round().int().tolist(), objects.labels.tolist(), strict=True
        ):
            part = mask[y0:y1, x0:x1] == label + 1
            assert part.any(0).all() or name == "scenes"
            assert part.any()
    again = opened(name)
    assert torch.equal(again.train.pixels, data.train.pixels)
    assert not torch.equal(opened(name, seed=1).train.pixels, data.train.pixels)


def test_things_are_several_and_of_many_sizes() -> None:
    from headsearch.data.image.synthetic.things import generate_things

    things = generate_things(200, 48, seed=3)
    number = (things.labels >= 0).sum(1)
    assert set(number.tolist()) >= {1, 2, 3, 4, 5}
    areas = torch.stack([(things.masks == k + 1).flatten(1).sum(1) for k in range(5)], dim=1)
    shown = areas[things.labels >= 0].double() / 48**2
    assert float(shown.quantile(0.9) / shown.quantile(0.1)) > 10
    part = generate_things(30, 48, seed=3, start=57)
    assert torch.equal(part.images, things.images[57:87])
    assert torch.equal(part.labels, things.labels[57:87])
