"""Dense proxies against independent references: segmentation, boxes, masks, the jackknife."""

from __future__ import annotations

import contextlib
import io
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor

from headsearch.data.dense import VOID, Objects
from headsearch.evaluation.proxies import average_precision, grids, segmentation
from headsearch.evaluation.proxies.average_precision import Matches, mean_average_precision
from headsearch.evaluation.proxies.detection import (
    Detection,
    boxes_from,
    cell_targets,
    centreness,
    ridge,
)
from headsearch.evaluation.proxies.grouped_scores import (
    GroupedScores,
    grouped_scores,
    mean_of_seeds,
    paired_error,
    standard_error,
)
from headsearch.evaluation.proxies.instances import InstanceMasks
from headsearch.evaluation.proxies.linear import fit_softmax
from headsearch.evaluation.proxies.regions import Regions
from headsearch.evaluation.proxies.segmentation import (
    Segmentation,
    ceiling,
    confusion_matrix,
    miou,
    sampled_patches,
    scored_images,
)

CPU = torch.device("cpu")
GRID = (4, 4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_masks(count: int, height: int = 16, width: int = 24, classes: int = 3) -> list[Tensor]:
    """Masks of coarse blocks, with some void."""
    made = generator(1)
    coarse = torch.randint(-1, classes, (count, 1, 4, 4), generator=made).float()
    fine = F.interpolate(coarse, (height, width), mode="nearest-exact")[:, 0]
    return list(fine.to(torch.int16))


# grids


def test_patch_histograms_count_the_area_of_each_class() -> None:
    """Against counting the pixels of a mask that was blown up so that cells hold whole pixels."""
    mask = torch.randint(-1, 3, (6, 10), generator=generator()).to(torch.int16)
    found = grids.patch_histograms(mask, 3, (4, 7))
    blown_up = mask.repeat_interleave(4, 0).repeat_interleave(7, 1)  # 24 × 70, cells of 6 × 10
    for row in range(4):
        for column in range(7):
            cell = blown_up[6 * row : 6 * row + 6, 10 * column : 10 * column + 10]
            for number in range(3):
                area = int((cell == number).sum()) / (4 * 7)
                assert math.isclose(float(found[number, row, column]), area, abs_tol=1e-5)


def test_positions_and_boxes_in_cells() -> None:
    positions = grids.position_map(2, (3, 5))
    assert positions.shape == (2, 9, 3, 5)
    x, y = positions[0, 0], positions[0, 1]
    assert torch.allclose(x[0], torch.tensor([-0.8, -0.4, 0.0, 0.4, 0.8]))
    assert torch.allclose(y[:, 0], torch.tensor([-2 / 3, 0.0, 2 / 3]))
    assert torch.allclose(positions[0, 3], x * y)
    box = grids.in_cells(torch.tensor([[0.0, 0.5, 0.2, 1.0]]), (4, 10))
    assert torch.allclose(box, torch.tensor([[0.0, 2.0, 2.0, 4.0]]))


def test_pixels_of_a_patch_are_its_features() -> None:
    images = torch.arange(2 * 3 * 8 * 8).reshape(2, 3, 8, 8).float()
    features = grids.pixel_map(images, (4, 4))
    assert features.shape == (2, 12, 4, 4)
    patch = images[1, :, 2:4, 4:6]
    assert torch.equal(features[1, :, 1, 2], patch.flatten())


# segmentation


def test_rare_classes_are_sampled_first() -> None:
    """Patches with small (sum of the frequencies of their classes) · U(0, 1), never void ones."""
    histograms = torch.zeros(3, 100)
    histograms[0, :90] = 5.0
    histograms[1, 90:96] = 5.0  # a rare class; the last four patches are void
    counts = torch.zeros(100)
    draws = generator()
    for _ in range(300):
        taken = sampled_patches(histograms, 12, draws)
        assert len(taken) == 12
        counts[taken] += 1
    assert counts[96:].sum() == 0
    assert counts[90:96].mean() > 5 * counts[:90].mean()
    assert len(sampled_patches(histograms, 1000, draws)) == 96


def test_miou_is_that_of_scikit_learn_over_the_classes_that_occur() -> None:
    from sklearn.metrics import jaccard_score

    made = generator(3)
    truth = torch.randint(-1, 4, (40, 50), generator=made)
    truth[truth == 2] = VOID  # class 2 does not occur
    scores = torch.randn(5, 40, 50, generator=made)
    matrix = confusion_matrix(scores, truth.to(torch.int16))
    valid = truth != VOID
    predicted = scores.argmax(0)[valid].numpy()
    present = sorted(set(truth[valid].tolist()))
    expected = jaccard_score(truth[valid].numpy(), predicted, labels=present, average="macro")
    assert math.isclose(miou(matrix), expected, rel_tol=1e-9)
    assert int(matrix.sum()) == int(valid.sum())


def test_scores_are_upsampled_before_the_largest_wins() -> None:
    scores = torch.randn(3, 4, 4, generator=generator(4))
    truth = torch.randint(0, 3, (13, 17), generator=generator(5)).to(torch.int16)
    up = torch.nn.Upsample(size=(13, 17), mode="bilinear", align_corners=False)(scores[None])[0]
    matrix = confusion_matrix(scores, truth)
    for real in range(3):
        for said in range(3):
            both = (truth == real) & (up.argmax(0) == said)
            assert int(matrix[real, said]) == int(both.sum())


def segmentation_task(count: int = 30, samples: int = 200) -> Segmentation:
    masks = random_masks(2 * count)
    return Segmentation(
        masks[:count], masks[count:], torch.arange(count) * 20 // count, 3, GRID, samples, CPU
    )


def test_segmentation_by_the_formula_of_hummingbird() -> None:
    """Patch by patch in float64: k-NN weights, histograms, upsampling, confusion matrix."""
    task = segmentation_task()
    maps = torch.randn(60, 8, *GRID, generator=generator(6))
    rows = torch.cat([task.rows(maps[:16], range(16)), task.rows(maps[16:30], range(16, 30))])
    assert rows.shape == (len(task.targets_NC), 8)
    fitted = task.fit(rows)
    fitted.observe(maps[30:44], range(14))
    fitted.observe(maps[44:], range(14, 30))
    memory = rows.double() / rows.double().norm(dim=1, keepdim=True)
    expected = torch.zeros(3, 3, dtype=torch.int64)
    for image in range(30):
        scores = torch.zeros(3, *GRID, dtype=torch.float64)
        for row in range(4):
            for column in range(4):
                query = maps[30 + image, :, row, column].double()
                similarity = memory @ (query / query.norm())
                nearest = similarity.argsort(descending=True)[:30]
                weights = (similarity[nearest] / 0.02).softmax(0)
                scores[:, row, column] = weights @ task.targets_NC[nearest].double()
        expected += confusion_matrix(scores, task.evaluation[image])
    assert torch.equal(fitted.confusion_GCC["seg_knn"].sum(0), expected)


def test_the_linear_probe_is_softmax_regression_on_histograms() -> None:
    """scikit-learn knows hard labels: a histogram is a row a class, weighted by its share."""
    task = segmentation_task()
    rows = torch.randn(len(task.targets_NC), 6, generator=generator(7))
    fit = fit_softmax(rows, task.targets_NC.T, l2=1e-2)
    standard = ((rows - rows.mean(0)) / rows.std(0, correction=0)).double().numpy()
    samples, classes = task.targets_NC.shape
    model = LogisticRegression(C=1 / (1e-2 * samples), tol=1e-10, max_iter=5000).fit(
        np.repeat(standard, classes, axis=0),
        np.tile(np.arange(classes), samples),
        sample_weight=task.targets_NC.flatten().numpy(),
    )
    found = fit.logits(rows).softmax(0).T.numpy()
    assert np.allclose(found, model.predict_proba(standard), atol=1e-4)
    matrix, offset = fit.affine()
    assert torch.allclose(
        (rows @ matrix.T + offset).softmax(1), torch.tensor(found).float(), atol=1e-4
    )


def test_features_that_are_the_classes_reach_the_ceiling_of_the_grid() -> None:
    task = segmentation_task(samples=10_000)
    masks = random_masks(60)
    maps = torch.stack([grids.normalised(grids.patch_histograms(m, 3, GRID), 0)[0] for m in masks])
    fitted = task.fit(task.rows(maps[:30], range(30)))
    fitted.observe(maps[30:], range(30))
    every = torch.ones(20, dtype=torch.bool)
    scores = {name: score(every) for name, score in fitted.statistics().items()}
    top = ceiling(masks[30:], 3, GRID, torch.ones(30, dtype=torch.bool))
    assert scores["seg_knn"] >= 0.95 * top
    assert scores["seg_linear"] >= 0.95 * top
    finer = ceiling(masks[30:], 3, (16, 16), torch.ones(30, dtype=torch.bool))
    coarser = ceiling(masks[30:], 3, (2, 2), torch.ones(30, dtype=torch.bool))
    assert coarser < top <= finer
    assert finer > 0.99


def test_a_class_that_the_memory_lacks_is_never_predicted() -> None:
    masks = [torch.zeros(8, 8, dtype=torch.int16) for _ in range(20)]
    for mask in masks:
        mask[4:] = 1
    task = Segmentation(masks, masks, torch.arange(20), 4, GRID, 1000, CPU)
    maps = torch.randn(20, 5, *GRID, generator=generator())
    fitted = task.fit(task.rows(maps, range(20)))
    fitted.observe(maps, range(20))
    for matrix in fitted.confusion_GCC.values():
        assert int(matrix[:, :, 2:].sum()) == 0


def test_of_a_fine_mask_a_lattice_of_pixels_is_compared() -> None:
    """Where a patch has 24 pixels a side, every fourth one of both directions."""
    scores = torch.randn(3, 4, 4, generator=generator(4))
    truth = torch.randint(0, 3, (96, 96), generator=generator(5)).to(torch.int16)
    up = torch.nn.Upsample(size=(96, 96), mode="bilinear", align_corners=False)(scores[None])[0]
    said, real = up.argmax(0)[2::4, 2::4], truth[2::4, 2::4]
    expected = [[int(((real == r) & (said == s)).sum()) for s in range(3)] for r in range(3)]
    assert confusion_matrix(scores, truth).tolist() == expected


def test_of_many_patches_evenly_spaced_images_are_segmented() -> None:
    assert scored_images(100, (4, 4), None).all()
    assert scored_images(100, (4, 4), 1600).all()
    half = scored_images(100, (4, 4), 800)
    assert half.tolist() == [True, False] * 50
    assert int(scored_images(100, (64, 64), 800).sum()) == 40  # the jackknife needs its groups
    masks = random_masks(120)
    task = Segmentation(
        masks[:20], masks[20:], torch.arange(100) * 20 // 100, 3, GRID, 200, CPU, 800
    )
    maps = torch.randn(120, 8, *GRID, generator=generator(6))
    fitted = task.fit(task.rows(maps[:20], range(20)))
    fitted.observe(maps[20:70], range(50))
    fitted.observe(maps[70:71], range(50, 51))
    fitted.observe(maps[71:], range(51, 100))
    counted = sum(int((mask != VOID).sum()) for mask in masks[20::2])
    assert all(int(matrix.sum()) == counted for matrix in fitted.confusion_GCC.values())


def test_a_coarse_fit_says_nearly_the_same() -> None:
    task = segmentation_task()
    rows = torch.randn(len(task.targets_NC), 6, generator=generator(7))
    exact, coarse = (
        fit_softmax(rows, task.targets_NC.T, l2=1e-4, coarse=given).logits(rows).softmax(0)
        for given in (False, True)
    )
    assert torch.allclose(exact, coarse, atol=0.02)


# average precision


def random_boxes(count: int, made: torch.Generator) -> Tensor:
    corner = torch.rand(count, 2, generator=made) * 70
    return torch.cat([corner, corner + 5 + 40 * torch.rand(count, 2, generator=made)], dim=1)


def scene(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Objects, crowds, and detections near and far from them, with scores."""
    made = generator(seed)
    truth = random_boxes(int(torch.randint(0, 8, (), generator=made)), made)
    crowd = torch.rand(len(truth), generator=made) < 0.2
    near = truth.repeat(3, 1) + 6 * torch.randn(3 * len(truth), 4, generator=made)
    boxes = torch.cat([near, random_boxes(6, made)])
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    return truth, crowd, boxes, torch.rand(len(boxes), generator=made)


def test_average_precision_and_recall_are_those_of_pycocotools() -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    from pycocotools.cocoeval import COCOeval

    scenes = [[scene(31 * image + number) for number in range(2)] for image in range(40)]
    annotations, detections = [], []
    by_class = [Matches(), Matches()]
    for image, classes in enumerate(scenes):
        for number, (truth, crowd, boxes, scores) in enumerate(classes):
            by_class[number].add(boxes, scores, truth, crowd, image % 20)
            for box, is_crowd in zip(truth.tolist(), crowd.tolist(), strict=True):
                shape = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": image, "category_id": number,
                     "bbox": shape, "area": shape[2] * shape[3], "iscrowd": int(is_crowd)}
                )  # fmt: skip
            for box, score in zip(boxes.tolist(), scores.double().tolist(), strict=True):
                detections.append(
                    {"image_id": image, "category_id": number, "score": score,
                     "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]}
                )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        ground = coco.COCO()
        ground.dataset = {
            "images": [{"id": image} for image in range(40)],
            "annotations": annotations,
            "categories": [{"id": 0}, {"id": 1}],
        }
        ground.createIndex()
        evaluated = COCOeval(ground, ground.loadRes(detections), "bbox")
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()
    every = torch.ones(20, dtype=torch.bool)
    ap50 = mean_average_precision(by_class, every)
    thresholds = range(len(average_precision.THRESHOLDS))
    ap = np.mean([mean_average_precision(by_class, every, t) for t in thresholds])
    recall = np.mean([matches.average_recall(every) for matches in by_class])
    assert math.isclose(ap50, evaluated.stats[1], abs_tol=1e-9)
    assert math.isclose(ap, evaluated.stats[0], abs_tol=1e-9)
    assert math.isclose(recall, evaluated.stats[8], abs_tol=1e-9)
    assert 0.1 < ap50 < 0.9


def test_average_precision_by_hand() -> None:
    matches = Matches()
    truth = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [20, 20, 30, 30]])
    counted = torch.zeros(2, dtype=torch.bool)
    matches.add(boxes, torch.tensor([0.9, 0.8, 0.7]), truth, counted, 0)
    every = torch.ones(1, dtype=torch.bool)
    # Precision 1 up to recall 0.5, then 2/3: 51 and 50 of the 101 points.
    assert math.isclose(matches.average_precision(every), (51 + 50 * 2 / 3) / 101)
    assert matches.average_recall(every) == 1.0
    assert math.isnan(matches.average_precision(~every)), "no object is left"
    nothing = Matches()
    nothing.add(boxes[:0], torch.zeros(0), truth, counted, 0)
    assert nothing.average_precision(every) == 0.0


# detection


def test_targets_of_cells_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0.0, 6.0, 6.0], [2.0, 2.0, 4.0, 4.0], [6.0, 6.0, 8.0, 8.0]])
    ignored = torch.tensor([False, False, True])
    targets = cell_targets(boxes, ignored, (8, 8))
    objects = targets.object_P.view(8, 8)
    assert objects[2, 2] == 1, "the smaller box wins"
    assert objects[0, 0] == -1, "more than 1.5 cells from the centre"
    assert objects[1, 1] == 0
    assert (objects[6:, 6:] == -2).all(), "cells of a crowd do not count"
    assert (objects[:, 7][:6] == -1).all()
    cell = 2 * 8 + 2
    assert torch.allclose(targets.distances_P4[cell], torch.tensor([0.5, 0.5, 1.5, 1.5]))
    assert math.isclose(float(targets.centreness_P[cell]), 1 / 3, rel_tol=1e-6)
    assert float(centreness(torch.tensor([[2.0, 1.0, 2.0, 1.0]]))) == 1.0


def test_boxes_come_back_from_their_targets() -> None:
    boxes = torch.tensor([[1.2, 0.7, 6.9, 5.0]])
    targets = cell_targets(boxes, torch.tensor([False]), (8, 8))
    found = boxes_from(targets.distances_P4.log()[None], (8, 8))[0]
    positive = targets.object_P == 0
    assert int(positive.sum()) == 9
    assert torch.allclose(found[positive], boxes.expand(9, 4), atol=1e-4)


def test_ridge_is_that_of_scikit_learn() -> None:
    rows = torch.randn(80, 6, generator=generator(8)) * torch.tensor([1, 2, 3, 4, 5, 0.0]) + 1
    targets = torch.randn(80, 3, generator=generator(9))
    matrix, offset = ridge(rows, targets, 1e-2)
    scale = rows.std(0, correction=0).clamp_min(1e-9)
    standard = ((rows - rows.mean(0)) / scale).double().numpy()
    model = Ridge(alpha=1e-2 * len(rows)).fit(standard, targets.double().numpy())
    assert np.allclose((rows @ matrix + offset).numpy(), model.predict(standard), atol=1e-4)


def objects_at(boxes: Tensor, labels: Tensor | None = None) -> Objects:
    count = len(boxes)
    labels = torch.zeros(count, dtype=torch.int64) if labels is None else labels
    masks = torch.zeros(count, 28, 28, dtype=torch.bool)
    masks[:, :, :14] = True
    return Objects(boxes, labels, torch.zeros(count, dtype=torch.bool), masks)


def planted(count: int, grid: int = 8) -> tuple[list[Objects], Tensor]:
    """One object an image, and maps that hold its box and class as features of its cells."""
    made = generator(10)
    begin = torch.rand(count, 2, generator=made) * 0.4
    end = begin + 0.3 + 0.25 * torch.rand(count, 2, generator=made)
    boxes = torch.cat([begin, end], dim=1)
    labels = torch.randint(0, 2, (count,), generator=made)
    objects = [objects_at(b[None], n[None]) for b, n in zip(boxes, labels, strict=True)]
    maps = torch.zeros(count, 8, grid, grid)
    for image, each in enumerate(objects):
        cells = grids.in_cells(each.boxes, (grid, grid))
        targets = cell_targets(cells, each.ignored, (grid, grid))
        near = (targets.object_P == 0).view(grid, grid).float()
        logs = targets.distances_P4.log().T.view(4, grid, grid)
        maps[image, 0] = near
        maps[image, 1:5] = logs * near
        maps[image, 5] = targets.centreness_P.view(grid, grid) * near
        x0, y0, x1, y1 = cells[0].round().int().tolist()
        maps[image, 6, y0:y1, x0:x1] = 1.0 if labels[image] else -1.0
        maps[image, 7, y0:y1, x0 : (x0 + x1) // 2] = 1.0  # the half that masks cover
    return objects, maps + 0.01 * torch.randn(maps.shape, generator=made)


def test_features_that_hold_the_boxes_find_them() -> None:
    objects, maps = planted(80)
    group_N = torch.arange(40) * 20 // 40
    every = torch.ones(20, dtype=torch.bool)
    classes = ("left", "right")
    task = Detection(objects[:40], objects[40:], group_N, classes, (8, 8), 8192, CPU)
    assert task.possible
    fitted = task.fit(task.rows(maps[:40], range(40)))
    fitted.observe(maps[40:], range(40))
    found = {name: score(every) for name, score in fitted.statistics().items()}
    assert found["det_ap50"] > 0.95
    noise = torch.randn(maps.shape, generator=generator(11))
    fitted = task.fit(task.rows(noise[:40], range(40)))
    fitted.observe(noise[40:], range(40))
    assert fitted.statistics()["det_ap50"](every) < 0.2


@pytest.mark.parametrize(("images", "scored"), [(100, {"left", "right"}), (60, set())])
def test_classes_have_their_own_precision_from_20_boxes_on(images: int, scored: set[str]) -> None:
    """Half of the images are reported on, and about half of these show each class."""
    objects, maps = planted(2 * images)
    group_N = torch.arange(images) * 20 // images
    every = torch.ones(20, dtype=torch.bool)
    both = objects[:images], objects[images:], group_N
    task = Detection(*both, ("left", "right"), (8, 8), 8192, CPU)
    fitted = task.fit(task.rows(maps[:images], range(images)))
    fitted.observe(maps[images:], range(images))
    found = {name: score(every) for name, score in fitted.statistics().items() if "/" in name}
    assert set(found) == {f"det_ap50/{name}" for name in scored}
    assert all(value > 0.9 for value in found.values())
    mirrored = maps * torch.tensor([1, 1, 1, 1, 1, 1, -1, 1]).view(8, 1, 1)  # the other class
    fitted = task.fit(task.rows(maps[:images], range(images)))
    fitted.observe(mirrored[images:], range(images))
    wrong = {name: score(every) for name, score in fitted.statistics().items()}
    assert all(wrong[name] < 0.1 for name in found)
    assert wrong["det_ap50"] > 0.9
    assert not Detection(*both, ("thing",), (8, 8), 8192, CPU).scored  # it would repeat the whole


class Scores:
    """Keeps the scores of detections in place of matching them."""

    def __init__(self) -> None:
        self.found: list[Tensor] = []

    def add(self, boxes_K4: Tensor, score_K: Tensor, *_: object) -> None:
        self.found.append(score_K)


def test_a_detection_counts_for_its_class_as_far_as_its_class_is_sure() -> None:
    objects, maps = planted(200)
    group_N = torch.arange(100) * 20 // 100
    task = Detection(objects[:100], objects[100:], group_N, ("left", "right"), (8, 8), 8192, CPU)
    fitted: Any = task.fit(task.rows(maps[:100], range(100)))
    fitted.matches, fitted.of_class = Scores(), {0: Scores(), 1: Scores()}
    unsure = maps[100:] * torch.tensor([1, 1, 1, 1, 1, 1, 0, 1]).view(8, 1, 1)  # of either class
    fitted.observe(unsure, range(100))
    whole = torch.cat(fitted.matches.found)
    by_class = torch.cat([each for of in fitted.of_class.values() for each in of.found])
    assert len(by_class) == len(whole)
    assert 0.4 < float(by_class.max() / whole.max()) < 0.8


def test_regions_and_masks_are_found_in_features_that_hold_them() -> None:
    objects, maps = planted(80)
    group_N = torch.arange(40) * 20 // 40
    every = torch.ones(20, dtype=torch.bool)
    regions = Regions(objects[:40], objects[40:], group_N, 2, (8, 8), 8192, CPU)
    fitted = regions.fit(regions.rows(maps[:40], range(40)))
    fitted.observe(maps[40:], range(40))
    found = {name: score(every) for name, score in fitted.statistics().items()}
    assert found == {"region_knn": 1.0, "region_linear": 1.0}
    masks = InstanceMasks(objects[:40], objects[40:], group_N, (8, 8), 8192, CPU)
    assert masks.possible
    probe = masks.fit(masks.rows(maps[:40], range(40)))
    probe.observe(maps[40:], range(40))
    assert probe.statistics()["mask_iou"](every) > 0.9


def test_aligning_logits_equals_aligning_features() -> None:
    """The mask probe aligns one channel of logits in place of all features."""
    objects, maps = planted(40)
    task = InstanceMasks(objects[:20], objects[20:], torch.arange(20), (8, 8), 4000, CPU)
    rows = task.rows(maps[:20], range(20))
    fitted = task.fit(rows)
    fitted.observe(maps[20:], range(20))
    from headsearch.evaluation.proxies.instances import aligned

    covered = task.covered_N.float()
    fit = fit_softmax(rows, torch.stack([1 - covered, covered]), 1e-4, 40)
    overlaps = []
    for image in range(20):
        boxes, truth = task.evaluation[image]
        tokens = aligned(maps[20 + image : 21 + image], [boxes])[0].permute(1, 2, 0)
        features = torch.cat([tokens, task.positions_AAF], dim=-1).flatten(0, 1)
        logits = fit.logits(features)
        shown = (logits[1] - logits[0]).view(1, 1, 14, 14)
        said = F.interpolate(shown, 28, mode="bilinear", align_corners=False)[0, 0] > 0
        overlaps.append(float((said & truth[0]).sum() / (said | truth[0]).sum()))
    every = torch.ones(20, dtype=torch.bool)
    assert math.isclose(fitted.statistics()["mask_iou"](every), np.mean(overlaps), abs_tol=2e-3)


def test_crowds_and_difficult_objects_are_left_out_of_regions() -> None:
    objects, maps = planted(40)
    hidden = [replace(each, ignored=torch.ones(1, dtype=torch.bool)) for each in objects[:5]]
    task = Regions([*hidden, *objects[5:20]], objects[20:], torch.arange(20), 2, (8, 8), 8192, CPU)
    assert len(task.rows(maps[:20], range(20))) == 15


# scores of groups


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    """For a mean over groups of equal size, the delete-a-group error is s / √g."""
    values = torch.randn(10, generator=generator(12)).double()
    without = [float((values.sum() - value) / 9) for value in values]
    assert math.isclose(standard_error(without), float(values.std() / math.sqrt(10)), rel_tol=1e-9)
    other = torch.randn(10, generator=generator(13)).double()
    paired = [float((other.sum() - value) / 9) for value in other]
    expected = float((values - other).std() / math.sqrt(10))
    assert math.isclose(paired_error(without, paired), expected, rel_tol=1e-9)


def test_choosing_and_reporting_use_different_groups() -> None:
    values = torch.arange(20).double()
    scores = grouped_scores({"seg_knn": lambda kept: float(values[kept].mean())})
    assert scores.choose["seg_knn"] == 9.0
    assert scores.report["seg_knn"] == 10.0
    assert scores.without["seg_knn"][0] == (100 - 1) / 9
    assert len(scores.without["seg_knn"]) == 10


def test_means_over_seeds() -> None:
    one = GroupedScores({"seg_knn": 0.2}, {"seg_knn": 0.4}, {"seg_knn": (0.1, 0.3)})
    two = GroupedScores({"seg_knn": 0.4}, {"seg_knn": 0.6}, {"seg_knn": (0.3, 0.5)})
    mean = mean_of_seeds([one, two])
    assert mean.choose["seg_knn"] == pytest.approx(0.3)
    assert mean.without["seg_knn"] == pytest.approx((0.2, 0.4))
    assert mean_of_seeds([GroupedScores(), one]).report == {}
    assert segmentation.NEIGHBOURS == 30


def test_the_memory_of_segmentation_has_as_many_patches_as_it_may() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = [torch.randint(0, 3, (32, 32), generator=generator) for _ in range(6)]
    for samples, expected in ((24, 24), (10_000, 6 * 16)):
        task = Segmentation(
            masks, masks, torch.arange(6), 3, (4, 4), samples, torch.device("cpu")
        )  # fmt: skip
        rows = task.rows(torch.randn(6, 5, 4, 4, generator=generator), range(6))
        assert rows.shape == (expected, 5)
        assert task.targets_NC.shape == (expected, 3)
