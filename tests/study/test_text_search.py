"""A search on texts, from a file to the report, and what follows it: pretraining, resuming."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from headsearch import api
from headsearch.config.input_shape import InputShape
from headsearch.config.setting_groups import OF_SEARCH_ALONE
from headsearch.config.settings import RunConfig, resolve
from headsearch.data.text.tokens import unpacked
from headsearch.data.text.windows import windowed
from headsearch.errors import UserError
from headsearch.evaluation.rung import raw_inputs
from headsearch.models.bases import BaseOutput, plan_named, plan_text_base
from headsearch.models.bases.text_base import TextBase
from headsearch.models.network import AttachedHead
from headsearch.pretraining.explaining.parts import _head_tokens
from headsearch.pretraining.explaining.session import explained
from headsearch.pretraining.export import export_from
from headsearch.pretraining.head_selection import head_on
from headsearch.pretraining.run import Pretraining
from headsearch.pretraining.setup import prepare_pretraining
from headsearch.pretraining.verification import Verification
from headsearch.report.document import write_report
from headsearch.runs.run import Run, read_run
from headsearch.study.resuming import resumed_search
from headsearch.study.search import Search
from headsearch.study.setup import SearchSetup, prepare
from headsearch.training.domain import with_domain
from headsearch.training.inputs import NO_INPUTS
from headsearch.training.memory_estimate import activation_bytes_per_image
from headsearch.training.schedules import StepPosition
from headsearch.training.setup import attach
from helpers.texts import TINY_BERT, made_up, text_table

transformers = pytest.importorskip("transformers")

SPACE = """
families:
  convnext: {depth: 1, kernel: 3}
  gru: {depth: 1}
controls:
  own: {depth: 1}
constraints: {max_params: 100, max_gflops: 100}
"""


def config_for(folder: Path, **changes: Any) -> RunConfig:
    (folder / "space.yaml").write_text(SPACE)
    return resolve({
        "base": "hf:bert-base-uncased", "base_args": TINY_BERT, "vocab_size": 320,
        "space": str(folder / "space.yaml"), "data": str(folder / "texts.csv"),
        "epochs": 2, "batch_size": 32, "rungs": 2, "eval_images": 64, "bank_images": 64,
        "device": "cpu", "precision": "float32", "threads": 1, "out": folder / "run", **changes,
    })  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> SearchSetup:
    folder = tmp_path_factory.mktemp("text")
    text_table(folder / "texts.csv", 200)
    return prepare(config_for(folder))


@pytest.fixture(scope="module")
def searched(prepared: SearchSetup) -> Run:
    Search(prepared).run()
    assert prepared.config.out is not None
    return read_run(prepared.config.out)


def test_a_search_on_texts_has_the_same_tables(searched: Run) -> None:
    assert set(searched.ranking["candidate"]) == {"convnext-d1-k3", "gru-d1", "own-d1"}
    assert (searched.ranking["state"] == "complete").all()
    assert searched.rungs["head_knn"].between(0, 1).all()
    assert searched.rungs["discrepancy"].notna().all()
    config = searched.config
    assert (config["domain"], config["image_size"]) == ("text", None)
    assert (config["text_tokens"], config["vocab_size"]) == (24, 320)
    assert searched.facts["base"]["grid"] == [1, 24]


def test_the_report_speaks_of_texts(searched: Run) -> None:
    write_report(searched)
    report = (searched.path / "report.md").read_text()
    assert "TF-IDF" in report
    assert "training texts" in report
    assert "Raw pixels" not in report


def test_words_of_their_own_tell_classes_apart_without_learning(prepared: SearchSetup) -> None:
    raw = raw_inputs(prepared.data)
    assert raw.report is not None
    assert raw.report.knn > 0.9


def test_a_search_is_resumed_with_the_same_vocabulary(searched: Run) -> None:
    again = resumed_search(searched)
    assert again.prepared.plan.input_shape == InputShape.text(24, 320)


def test_the_base_is_pretrained_and_loaded_by_transformers(searched: Run, tmp_path: Path) -> None:
    flags = {"out": tmp_path / "solo", "epochs": 1, "rungs": 1}
    solo = Pretraining(prepare_pretraining(flags, run=searched, head="gru-d1"))
    solo.run()
    assert solo.loading == f"transformers.AutoModel.from_pretrained('{tmp_path / 'solo/model'}')"
    folder = tmp_path / "solo" / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    encoder = solo.setup.data.encoder
    assert encoder is not None
    text = made_up(1)[0][0]
    ids = tokenizer(text)["input_ids"]
    assert ids == encoder.tokenizer.encode(text).ids
    base = solo.setup.new_trainer("joint").student.base.eval()
    base.trunk.load_state_dict(model.state_dict())
    with torch.no_grad():
        want = model(input_ids=torch.tensor([ids])).last_hidden_state
        torch.testing.assert_close(base(torch.tensor([ids])).tokens_BND, want)
    # A base of that folder continues from it, with its tokenizer.
    again = prepare(config_for(
        searched.path.parent, base=f"hf:{folder}", base_args=None, vocab_size=None, out=None
    ))  # fmt: skip
    assert again.plan.weights is not None
    built = again.plan.build()
    assert torch.equal(built.trunk.state_dict()["embeddings.word_embeddings.weight"],
                       model.state_dict()["embeddings.word_embeddings.weight"])  # fmt: skip
    assert again.plan.input_shape.vocabulary == 320


@pytest.mark.parametrize(
    ("name", "sizes", "loader"),
    [
        ("albert", f"{TINY_BERT},embedding_size=8", "AutoModel"),
        ("t5", "num_layers=2,d_model=16,num_heads=2,d_kv=8,d_ff=32", "AutoModelForTextEncoding"),
    ],
)
def test_bases_of_other_forms_are_loaded_by_transformers(
    searched: Run, tmp_path: Path, name: str, sizes: str, loader: str
) -> None:
    config = config_for(
        searched.path.parent, base=f"hf:{name}", base_args=sizes, epochs=1, rungs=1, out=None
    )
    flags = config.model_dump(exclude_unset=True, exclude={*OF_SEARCH_ALONE})
    flags["out"] = tmp_path / "solo"
    solo = Pretraining(prepare_pretraining(flags, head="convnext-d1-k3"))
    solo.run()
    folder = tmp_path / "solo" / "model"
    assert solo.loading == f"transformers.{loader}.from_pretrained('{folder}')"
    model = eval(solo.loading, {"transformers": transformers}).eval()
    weights, loaded = load_file(solo.weights), model.state_dict()
    assert weights.keys() == {key for key in loaded if not key.startswith("pooler.")}
    assert all(torch.equal(weights[key], loaded[key]) for key in weights)
    again = plan_text_base(f"hf:{folder}", solo.setup.plan.input_shape).build().eval()
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        torch.testing.assert_close(again(ids).tokens_BND, model(input_ids=ids).last_hidden_state)


def test_a_head_is_exported(searched: Run, tmp_path: Path) -> None:
    exported = export_from(searched, head="gru-d1", out=tmp_path)
    assert exported.files.python is not None
    namespace: dict[str, Any] = {}
    exec(exported.files.python.read_text(), namespace)
    assert namespace["build_head"]()(torch.zeros(2, 16, 1, 24)).shape == (2, 16, 1, 24)


@pytest.mark.parametrize("objective", ["mae", "ibot", "byol"])
def test_objectives_with_masks_and_teachers_train_on_texts(searched: Run, objective: str) -> None:
    setup = prepare(config_for(searched.path.parent, objective=objective, out=None)).training
    trainer = setup.new_trainer("joint")
    attach(trainer, setup, head_on(setup.plan, "convnext-d1-k3", searched).candidate)
    for step in range(2):
        trainer.step(setup.new_loader().crops(step), StepPosition(step, setup.steps))
    assert trainer.read().base_sound
    assert all(parameter.isfinite().all() for parameter in trainer.student.parameters())


@pytest.mark.parametrize("objective", ["simclr", "mae", "ibot"])
def test_what_maps_hold_behind_a_text_changes_nothing(
    searched: Run, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = prepare(config_for(searched.path.parent, objective=objective, out=None)).training
    crops, position = setup.new_loader().crops(0).flatten(0, 1), StepPosition(0, setup.steps)
    forward = TextBase.forward

    def spoiled(self: TextBase, *inputs: Any, **more: Any) -> BaseOutput:
        output = forward(self, *inputs, **more)
        assert output.valid is not None
        noise_D = 100 * torch.randn(16, generator=torch.Generator().manual_seed(0))
        behind_BND = (~output.valid).flatten(1).unsqueeze(-1) * noise_D
        behind_BDHW = behind_BND.transpose(1, 2).unsqueeze(2)
        maps = {index: map_BDHW + behind_BDHW for index, map_BDHW in output.maps_BDHW.items()}
        return output._replace(maps_BDHW=maps, tokens_BND=output.tokens_BND + behind_BND)

    def found() -> tuple[Any, ...]:
        trainer = setup.new_trainer("joint")
        for head in ("convnext-d1-k3", "own-d1"):
            attach(trainer, setup, head_on(setup.plan, head, searched).candidate)
        _, losses = trainer.losses(crops, position)
        state = {name: b for name, b in trainer.student.named_buffers() if "centre" in name}
        return losses.base, losses.heads, state, setup.scores(trainer.teacher.network)

    plain = found()
    assert (~setup.new_trainer("joint").student.base(crops).valid).any()
    monkeypatch.setattr(TextBase, "forward", spoiled)
    for before, after in zip(plain, found(), strict=True):
        assert_same(before, after)


def assert_same(one: Any, other: Any) -> None:
    """Numbers, tensors and what is made of them are the same."""
    if isinstance(one, torch.Tensor | float):
        torch.testing.assert_close(one, other, equal_nan=True)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif is_dataclass(one):
        assert_same(vars(one), vars(other))
    else:
        assert one == other


def test_a_head_on_a_window_is_that_on_a_text_of_this_length() -> None:
    layers = [torch.nn.Conv2d(8, 8, (1, 5), padding=(0, 2)) for _ in range(2)]
    head = AttachedHead(torch.nn.Sequential(*layers), 8, torch.nn.Identity())
    window = torch.randn(3, 8, 1, 6)
    torch.testing.assert_close(_head_tokens(head, window, (1, 16)), head(window))
    torch.testing.assert_close(_head_tokens(head, window, (1, 6)), head(window))


def test_the_base_does_not_depend_on_the_heads_that_observe(prepared: SearchSetup) -> None:
    def trained(head: str | None) -> dict[str, torch.Tensor]:
        setup = prepared.training
        trainer = setup.new_trainer("observe")
        if head is not None:
            listing = prepared.listing
            assert listing is not None
            attach(trainer, setup, next(c for c in listing.candidates if c.name == head))
        for step in range(2):
            trainer.step(setup.new_loader().crops(step), StepPosition(step, setup.steps))
        return trainer.student.base.state_dict()

    alone, beside = trained(None), trained("gru-d1")
    assert all(torch.equal(alone[name], beside[name]) for name in alone)


def test_the_memory_of_a_step_is_estimated(prepared: SearchSetup) -> None:
    kept = activation_bytes_per_image(prepared.plan)
    assert kept is not None
    assert kept > 16 * 16 * 4


def test_a_table_of_candidates_needs_no_data() -> None:
    plan = plan_named("hf:bert-base-uncased", 32, base_args=TINY_BERT)
    assert plan.grid == (1, 64)
    assert (plan.own_family, plan.causal) == ("attention", False)


def test_python_takes_the_space_of_the_domain(
    searched: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, Any] = {}

    def seen(flags: dict[str, Any], **_: Any) -> None:
        found.update(flags)
        raise UserError("seen")

    monkeypatch.setattr(api, "run_search", seen)
    with pytest.raises(UserError, match="seen"):
        api.search("hf:gpt2", data="texts.csv")
    config = with_domain(resolve(found), NO_INPUTS)
    assert (config.domain, config.space) == ("text", "sequence.yaml")


def test_bank_and_queries_may_be_files_of_their_own(searched: Run) -> None:
    folder = searched.path.parent
    (folder / "lines.txt").write_text("\n".join(text for text, _ in made_up(120, seed=1)))
    text_table(folder / "bank.csv", 90, seed=2)
    text_table(folder / "queries.csv", 60, seed=3)
    pair = f"{folder / 'bank.csv'},{folder / 'queries.csv'}"
    data = prepare(
        config_for(folder, data=str(folder / "lines.txt"), eval_data=pair, out=None)
    ).data
    assert (len(data.train), data.train.labels) == (120, None)
    assert data.bank is not None
    assert (len(data.bank), len(data.queries)) == (64, 60)
    assert data.bank.classes == data.queries.classes == ("money", "travel", "weather")


def test_explain_compares_bases_on_windows_of_one_length(searched: Run, tmp_path: Path) -> None:
    run = shutil.copytree(searched.path, tmp_path / "run")
    for head, seed in itertools.product(("none", "own-d1", "gru-d1"), (0, 1)):
        flags = {"rungs": 1, "seed": seed, "data_seed": 0}
        flags["out"] = run / "solo" / f"{head}-seed{seed}"
        Pretraining(prepare_pretraining(flags, run=read_run(run), head=head)).run()
    Verification(read_run(run), top=2, seeds=2, device="cpu").write()
    found = explained(read_run(run), head="gru-d1")
    rows = found.measurements.set_index("analysis")
    assert {"change", "toward_cka", "toward_r2", "knn", "linear", "frequency"} <= set(rows.index)
    assert set(rows.loc["cues", "block"]) == {"reversed", "shuffled", "shuffled parts"}
    assert rows["value"].notna().all()
    # Words of their own tell the classes apart, in any order.
    assert rows.loc["cues"].query("model != 'untrained'")["value"].abs().max() < 0.35
    assert {text.partition(" ")[0] for text in found.left_out} == {"attention", "field", "evidence"}
    assert (run / "explain" / "change.svg").exists()
    assert not list((run / "explain").glob("*.png"))


def test_windows_leave_short_texts_out_and_keep_the_halves(prepared: SearchSetup) -> None:
    whole = prepared.data
    cut = windowed(whole)
    lengths = (unpacked(whole.queries.batch(torch.arange(len(whole.queries)))) >= 0).sum(1)
    width = cut.queries.shape.width
    assert width == int(lengths.median())
    kept = lengths >= width
    assert len(cut.queries) == int(kept.sum())
    ids = unpacked(cut.queries.batch(torch.arange(len(cut.queries))))
    assert (ids >= 0).all()
    everything = unpacked(whole.queries.batch(torch.arange(len(whole.queries))))
    for half, before in ((cut.choose, whole.choose), (cut.report, whole.report)):
        assert torch.equal(ids[half], everything[before[kept[before]]][:, :width])
    assert whole.queries.labels is not None
    assert torch.equal(cut.queries.labels, whole.queries.labels[kept])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_size": 32}, "--image-size is for --domain image"),
        ({"clip_seconds": 2}, "--clip-seconds is for --domain audio"),
        ({"base": "vit_mini", "domain": "text", "base_args": None}, "do not fit together"),
        (
            {"domain": "image", "base": "vit_mini", "base_args": None},
            "--vocab-size is for --domain",
        ),
        ({"base_args": "vocab_size=9"}, "--base-args: vocab_size follows the texts"),
        ({"base_args": "layers=9"}, "unknown argument of hf:bert-base-uncased 'layers'"),
        ({"normalization": "0.5/0.5"}, "--normalization is for images and clips"),
        ({"compile": True}, "--compile works for bases of images and clips"),
        ({"text_column": "words"}, "unknown text column of .* 'words'"),
        ({"views": "crop_scale=0.2/1"}, "views: no setting 'crop_scale'"),
        ({"text_tokens": 4000}, "does not take texts of up to 4000 tokens"),
    ],
)
def test_settings_that_do_not_fit_texts_are_one_line(
    searched: Run, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(UserError, match=said) as error:
        prepare(config_for(searched.path.parent, **{"out": None, **changes}))
    assert "\n" not in str(error.value)
