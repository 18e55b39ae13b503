"""`headsearch bench`: what it measures, and how ratios are computed from the parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from headsearch.config.input_shape import InputShape
from headsearch.config.settings import resolve
from headsearch.data.text.tokens import unpacked
from headsearch.errors import UserError
from headsearch.study.profiling import benchmark as bench_module
from headsearch.study.profiling import step_profiler
from headsearch.study.profiling.benchmark import Bench
from headsearch.study.profiling.benchmark_setup import bench_heads, bench_settings, prepare_bench
from headsearch.study.profiling.peak_memory import Memory, peak_memory
from headsearch.study.profiling.step_profiler import (
    MIDDLE,
    Size,
    StepProfiler,
    activation_bytes,
    step_flops,
)
from headsearch.study.setup import SearchSetup
from headsearch.training.objectives import OBJECTIVES
from headsearch.training.setup import attach
from helpers.command_line import in_process

TINY = {
    "base": "test_vit", "image_size": 16, "patch_size": 4, "batch_size": 8, "device": "cpu",
    "precision": "float32", "threads": 1,
}  # fmt: skip
SPACE = """
families:
  mixer: {depth: 1}
  convnext: {depth: 1, kernel: 3}
  poolformer: {depth: 1}
"""


@pytest.fixture(scope="module")
def space_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("bench") / "tiny.yaml"
    file.write_text(SPACE)
    return str(file)


def tiny(space_file: str, heads: int = 4, **changes: Any) -> SearchSetup:
    settings = resolve({**TINY, "space": space_file, **changes})
    return prepare_bench(bench_settings(settings, heads))


def test_heads_are_those_of_the_space_repeated_where_it_has_too_few(space_file: str) -> None:
    heads = bench_heads(tiny(space_file), 5)
    assert [head.name for head in heads] == [
        "convnext-d1-k3", "mixer-d1", "poolformer-d1-p3", "convnext-d1-k3+1", "mixer-d1+1",
    ]  # fmt: skip


def count_flops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures steps in FLOPs in place of seconds: they have no noise."""

    def flops(step: Callable[[], None], device: torch.device) -> float:
        with FlopCounterMode(display=False) as counter:
            step()
        return float(counter.get_total_flops())

    monkeypatch.setattr(step_profiler, "seconds_of", flops)


@pytest.mark.parametrize("objective", ["simclr", "ibot", "mae"])
@pytest.mark.parametrize("coupling", ["joint", "observe"])
def test_a_head_adds_as_much_on_fixed_features_as_to_a_step(
    objective: str, coupling: str, space_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its backward pass and the teacher's forward pass are included."""
    count_flops(monkeypatch)
    prepared = tiny(space_file, objective=objective, coupling=coupling)
    profiler = StepProfiler(prepared.training)
    first, second = bench_heads(prepared, 2)
    base = profiler.joint([])
    assert profiler.own(first) == profiler.joint([first]) - base > 0
    assert profiler.own(second) == profiler.joint([second]) - base > 0
    if coupling == "observe":  # in `joint`, the losses of the base depend on the heads
        parts = base + profiler.own(first) + profiler.own(second)
        assert profiler.joint([first, second]) == parts


def test_flops_are_those_of_the_matrix_products_of_a_step(space_file: str) -> None:
    prepared = tiny(space_file, coupling="observe")
    first, second = bench_heads(prepared, 2)
    dim, hidden, width = 64, 512, 128
    # For each of 16 crops three products: forward, gradient of the weights, of the input.
    projector = 2 * 3 * 16 * (dim * hidden + hidden * hidden + hidden * width)
    loss = 2 * 3 * 16 * 16 * width
    in_blocks = 2 * 3 * 16 * prepared.plan.gflops * 1e9 / 2
    no_gradient_to_images = 2 * 16 * 16 * (3 * 4 * 4 * dim)
    expected = in_blocks + projector + loss - no_gradient_to_images
    base, one, two = (step_flops(prepared.training, heads) for heads in ([], [first], [second]))
    assert base == pytest.approx(expected)
    assert step_flops(prepared.training, [first, second]) == one + two - base > base


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_flops_on_the_meta_device_are_those_of_a_step(
    objective: str, space_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_flops(monkeypatch)
    prepared = tiny(space_file, objective=objective, coupling="joint", images_per_head="share")
    heads = bench_heads(prepared, 2)
    assert step_flops(prepared.training, heads) == StepProfiler(prepared.training).joint(heads)


def test_the_rate_of_a_product_is_its_flops_over_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    count_flops(monkeypatch)  # FLOPs in place of seconds: their ratio is 1
    assert step_profiler.product_rate(torch.device("cpu"), autocast=False) == 1


def test_heads_that_share_a_batch_cost_what_their_part_of_it_costs(
    space_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_flops(monkeypatch)
    prepared = tiny(space_file, coupling="observe", images_per_head="share")
    profiler = StepProfiler(prepared.training)
    first, second = bench_heads(prepared, 2)
    parts = profiler.joint([]) + profiler.own(first, 4) + profiler.own(second, 4)
    assert profiler.joint([first, second]) == parts
    assert profiler.own(first, 4) < 0.6 * profiler.own(first)
    alone = profiler.joint([]) + profiler.own(first)
    assert profiler.solo(first) == profiler.joint([first]) == alone


def test_counting_activations_keeps_none_of_them(space_file: str) -> None:
    """Nor an unreferenced graph, which would hold the activations of a step for ever."""
    prepared = tiny(space_file)
    trainer = prepared.training.new_trainer(prepared.config.coupling)
    (head,) = bench_heads(prepared, 1)
    attach(trainer, prepared, head)
    weights = list(trainer.student.parameters())
    crops = torch.randn(2 * 8, 3, 16, 16)

    def accumulators() -> list[Any]:
        """Where the weights' gradients arrive: the same objects as long as a graph holds them."""
        return [weight.view_as(weight).grad_fn.next_functions[0][0] for weight in weights]

    marked = accumulators()
    for accumulator in marked:
        accumulator.metadata["marked"] = True
    assert activation_bytes(lambda: trainer.losses(crops, MIDDLE), weights) > 0
    del marked, accumulator
    assert not any("marked" in accumulator.metadata for accumulator in accumulators())


def test_activations_are_counted_once_and_without_what_is_known() -> None:
    weight = torch.ones(4, 4, requires_grad=True)
    inputs = torch.ones(2, 4)

    def forward() -> torch.Tensor:
        return (inputs @ weight).exp()  # the product keeps its input, exp keeps its output

    assert activation_bytes(forward, [inputs, weight]) == 2 * 4 * 4
    assert activation_bytes(forward, [weight]) == 2 * 4 * 4 + 2 * 4 * 4


def test_more_heads_than_can_share_a_batch_are_refused(space_file: str) -> None:
    with pytest.raises(UserError, match="leaves 5 heads 1 of 8 images each"):
        Bench(tiny(space_file, 5, images_per_head="share"), [1, 5])
    assert Bench(tiny(space_file, 4, images_per_head="share"), [1, 4])  # the space holds three


def test_the_ratios_come_from_the_medians_of_the_parts(space_file: str) -> None:
    bench = Bench(tiny(space_file, objective="byol"), [1, 4], repeats=3)
    times = bench.times
    times.crops.extend([0.001, 0.001, 0.001])
    times.base.extend([0.100, 0.120, 0.110])
    times.own[8].update({
        "convnext-d1-k3": [0.010, 0.010, 0.040],
        "mixer-d1": [0.020, 0.020, 0.020],
        "poolformer-d1-p3": [0.030, 0.030, 0.030],
    })  # fmt: skip
    times.solo.update({
        "convnext-d1-k3": [0.120, 0.120, 0.120],
        "mixer-d1": [0.130, 0.130, 0.130],
        "poolformer-d1-p3": [0.140, 0.140, 0.140],
    })  # fmt: skip
    times.joint.update({1: [0.110, 0.132, 0.121], 4: [0.200, 0.190, 0.180]})
    bench.memory = {0: Memory(50, 100), 1: Memory(50, 130), 4: Memory(50, 220)}
    bench.sizes = {
        "": Size(1e6, 3e6), "convnext-d1-k3": Size(2e6, 4e6), "mixer-d1": Size(1e6, 1e6),
        "poolformer-d1-p3": Size(1e6, 1e6),
    }  # fmt: skip
    bench.flops, bench.product_rate = {0: 22e9, 1: 24.2e9, 4: 38e9}, 1e12
    findings = bench.findings()
    one, four = findings.cohorts
    assert findings.base_ms == pytest.approx(110)
    assert findings.base_images_per_second == pytest.approx(8 / 0.110)
    assert findings.base_tflops_per_second == pytest.approx(0.2)  # 22 GFLOPs in 110 ms
    assert findings.product_tflops_per_second == 1
    assert four.tflops_per_second == pytest.approx(0.2)
    assert one.parts_ms == pytest.approx(110 + 10)
    assert one.overhead_ratio == pytest.approx(121 / 120)
    assert one.overhead_range == pytest.approx([121 / 150, 132 / 130])
    # the fourth head is the first one once more
    assert four.own_ms == pytest.approx(10 + 20 + 30 + 10)
    assert four.overhead_ratio == pytest.approx(190 / 180)
    assert four.saving_ratio == pytest.approx(190 / (120 + 130 + 140 + 120))
    assert four.images_per_second == pytest.approx(8 / 0.190)
    assert four.ms_per_head == pytest.approx(80 / 4)
    assert four.memory_per_head_mb == pytest.approx(30)
    assert findings.memory_per_head_mb == pytest.approx(30)  # 100, 130, 220 lie on a line
    assert findings.ms_per_head == pytest.approx((80 * 4 + 11 - 91 * 5 / 3) / (17 - 25 / 3))
    # 50 MB before; for each parameter five numbers of four bytes, one of them the teacher's; and
    # the kept activations
    assert one.predicted_memory_mb == pytest.approx(50 + 20 * (1 + 2) + 3 + 4)
    assert four.predicted_memory_mb == pytest.approx(50 + 20 * (1 + 2 + 1 + 1 + 2) + 13)
    as_json = findings.to_json()
    assert json.loads(json.dumps(as_json)) == as_json
    assert as_json["cohorts"][0]["overhead_ratio"] == one.overhead_ratio


def make_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures each step once, and starts no processes to measure memory."""
    monkeypatch.setattr(step_profiler, "AT_LEAST_S", 1e-9)
    monkeypatch.setattr(
        bench_module, "peak_memory", lambda config, heads: Memory(100.0, 150.0 + heads)
    )


OTHERS: dict[str, dict[str, Any]] = {
    "audio": {"base": "test_vit", "base_args": "depth=2", "clip_seconds": 0.5, "mels": 16},
    "text": {
        "base": "hf:gpt2", "base_args": "n_layer=2,n_embd=32,n_head=2", "text_tokens": 16,
        "vocab_size": 300,
    },
}  # fmt: skip
"""Clips and texts; the domain is found from the settings."""
SEQUENCES = """
families:
  convnext: {depth: 1, kernel: 3}
  gru: {depth: 1}
"""


def of_domain(domain: str, folder: Path, **changes: Any) -> SearchSetup:
    if domain == "text":
        pytest.importorskip("transformers")
    (folder / "sequences.yaml").write_text(SEQUENCES)
    common = {"batch_size": 8, "device": "cpu", "precision": "float32", "threads": 1}
    given = {**common, **OTHERS[domain], "space": str(folder / "sequences.yaml"), **changes}
    return prepare_bench(bench_settings(resolve(given), 2))


@pytest.mark.parametrize("domain", OTHERS)
def test_clips_and_texts_are_random_samples_of_the_shape_that_is_asked_for(
    domain: str, tmp_path: Path
) -> None:
    prepared = of_domain(domain, tmp_path)
    sample = prepared.data.train.batch(torch.arange(32))
    if domain == "text":
        assert prepared.plan.input_shape == InputShape.text(16, 300)
        ids = unpacked(sample)
        assert 0 <= int(ids.min()) < 10
        assert 290 <= int(ids.max()) < 300
    else:
        assert prepared.plan.input_shape == InputShape(1, 16, 64, sequence=True)
        assert (int(sample.min()), int(sample.max())) == (0, 255)
    again = of_domain(domain, tmp_path)  # as the process does that measures memory
    assert torch.equal(again.data.train.batch(torch.arange(32)), sample)
    assert [head.family for head in bench_heads(prepared, 2)] == ["convnext", "gru"]


@pytest.mark.parametrize("domain", OTHERS)
def test_what_is_not_given_is_that_of_the_domain(domain: str) -> None:
    base = {name: OTHERS[domain][name] for name in ("base", "base_args")}
    settings = bench_settings(resolve({**base, "domain": domain}), 2)
    assert settings.space == "sequence.yaml"
    decided = (settings.clip_seconds, settings.text_tokens, settings.vocab_size)
    assert decided == ((1, None, None) if domain == "audio" else (None, 64, 8192))


@pytest.mark.parametrize("domain", OTHERS)
@pytest.mark.parametrize("objective", ["simclr", "mae"])
def test_a_head_on_a_sequence_adds_as_much_on_fixed_features_as_to_a_step(
    domain: str, objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_flops(monkeypatch)
    prepared = of_domain(domain, tmp_path, objective=objective)
    profiler = StepProfiler(prepared.training)
    for head in bench_heads(prepared, 2):
        assert profiler.own(head) == profiler.joint([head]) - profiler.joint([]) > 0


@pytest.mark.parametrize("domain", OTHERS)
def test_the_command_takes_clips_and_texts(
    domain: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    config = of_domain(domain, tmp_path).config  # writes the space
    make_quick(monkeypatch)
    common = {"batch_size": 8, "device": "cpu", "precision": "float32", "threads": 1}
    flags = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in {**common, **OTHERS[domain]}.items()
    ]
    command = ("bench", *flags, "--space", config.space, "--heads", "1,2", "--repeats", "1")
    code, out, err = in_process(capsys, monkeypatch, *command)
    assert code == 0, err
    inputs, noun = (
        ("log-mel maps of 16×64", "Clips") if domain == "audio"
        else ("texts of up to 16 tokens", "Texts")
    )  # fmt: skip
    assert out.startswith(f"{config.base} on {inputs}, simclr")
    assert f"{noun} each" in out
    assert "mages" not in out
    code, out, err = in_process(capsys, monkeypatch, *command, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["base"]["domain"], found["base"]["inputs"]) == (domain, inputs)
    assert [cohort["heads"] for cohort in found["cohorts"]] == [1, 2]
    code, _, err = in_process(capsys, monkeypatch, *command, "--data", "photos")
    assert code == 2
    assert "--data measures how fast photos are read" in err


def test_a_base_that_looks_at_values_is_counted_on_the_device(tmp_path: Path) -> None:
    sizes = "num_hidden_layers=2,hidden_size=32,num_attention_heads=2,intermediate_size=64"
    mpnet, bert = (
        of_domain("text", tmp_path, base=f"hf:{kind}", base_args=sizes).training
        for kind in ("mpnet", "bert")
    )
    # The same products, but for those within attention, which are counted on the meta device.
    assert 0.5 * step_flops(bert, []) < step_flops(mpnet, []) <= step_flops(bert, [])


def bench(
    space_file: str, folder: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, *more: str,
) -> str:  # fmt: skip
    """What the command prints."""
    monkeypatch.chdir(folder)
    make_quick(monkeypatch)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    code, out, err = in_process(
        capsys, monkeypatch,
        "bench", *flags, "--space", space_file, "--heads", "2,1", "--repeats", "2", *more,
    )  # fmt: skip
    assert code == 0, err
    assert list(folder.iterdir()) == []  # the command writes no file
    return out


def test_the_command_prints_one_json_object_with_all_results(
    space_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    found = json.loads(bench(space_file, tmp_path, capsys, monkeypatch, "--json"))
    assert [cohort["heads"] for cohort in found["cohorts"]] == [1, 2]
    assert [head["candidate"] for head in found["heads"]] == ["convnext-d1-k3", "mixer-d1"]
    assert found["machine"]["threads"] == 1
    assert found["repeats"] == 2
    for cohort in found["cohorts"]:
        assert cohort["overhead_ratio"] == cohort["joint_ms"] / cohort["parts_ms"]
        assert cohort["saving_ratio"] == cohort["joint_ms"] / cohort["solo_ms"]
        assert cohort["peak_memory_mb"] == 150 + cohort["heads"]


def test_the_command_prints_a_row_a_head_and_a_row_a_cohort(
    space_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    lines = bench(space_file, tmp_path, capsys, monkeypatch).splitlines()
    assert lines[0].startswith("test_vit on 16×16 images, simclr, observe, batches of 8, float32")
    starts = [line.split()[0] for line in lines if line.split()]
    assert {"convnext-d1-k3", "mixer-d1", "1", "2"} <= set(starts)
    assert any("Overhead" in line and "Saving" in line for line in lines)


def test_memory_is_measured_in_a_new_process(space_file: str) -> None:
    found = peak_memory(tiny(space_file).config, 2)
    assert 10 < found.before < found.peak < 10_000


@pytest.mark.parametrize("heads", ["0", "two", "1,,2", ""])
def test_invalid_numbers_of_heads_are_refused_in_one_line(
    heads: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = in_process(capsys, monkeypatch, "bench", "--heads", heads)
    assert code == 2
    said = f"--heads takes numbers from 1 on, separated by commas, but got {heads!r}"
    started, refused = err.splitlines()
    assert started.endswith("starting bench …")
    assert refused == f"headsearch: {said}"
