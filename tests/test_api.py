"""headsearch from Python: the commands, on names and on objects of one's own."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import Dataset, Subset

import headsearch
from headsearch import api
from headsearch.data import DatasetSource, DataSettings, open_data
from headsearch.errors import UserError
from headsearch.models.bases import plan_base
from headsearch.models.space import find_space, load_space, ready_spaces
from helpers.in_ranks import ForkedJob

ROOT = Path(__file__).parent.parent
SPACE: dict[str, Any] = {
    "families": {"poolformer": {"depth": 1}, "mixer": {"depth": 1}},
    "controls": {"identity": None},
}
TINY: dict[str, Any] = {
    "image_size": 16,
    "images": 64,
    "epochs": 1,
    "batch_size": 32,
    "rungs": 1,
    "eval_images": 64,
    "bank_images": 64,
    "min_keep": 1,
    "device": "cpu",
    "precision": "float32",
    "threads": 1,
}


class Squares(Dataset[Any]):
    """Noise of three classes that differ in brightness, in any of the forms of an image."""

    classes = ("dark", "dim", "bright")

    def __init__(self, count: int, form: str = "pil", *, labelled: bool = True) -> None:
        self.count, self.form, self.labelled = count, form, labelled

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        image = self.image(index)
        return (image, index % 3) if self.labelled else image

    def pixels(self, index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        rng = np.random.default_rng(index)
        return rng.integers(80 * (index % 3), 80 * (index % 3) + 90, (20, 24, 3), dtype=np.uint8)

    def image(self, index: int) -> Any:
        pixels = self.pixels(index)
        if self.form == "pil":
            return Image.fromarray(pixels)
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)
        if self.form == "uint8":
            return tensor
        return tensor / 255 if self.form == "float" else tensor / 127.5 - 1


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> headsearch.Result:
    """A search on a dataset of the user's own and a space in a dict."""
    return headsearch.search(
        "test_vit",
        SPACE,
        data=Squares(160),
        out=tmp_path_factory.mktemp("runs") / "own",
        patch_size=4,
        progress=False,
        **TINY,
    )


def test_a_search_gives_its_tables_its_best_head_and_its_advice(
    result: headsearch.Result,
) -> None:
    assert set(result.ranking["candidate"]) == {"poolformer-d1-p3", "mixer-d1", "identity"}
    assert set(result.rungs["rung"]) == {0, 1}
    assert result.ranking["head_knn"].notna().all()
    assert result.best in ("poolformer-d1-p3", "mixer-d1")
    assert result.advice.endswith(".")
    assert result.run_directory.name == "own"
    assert (result.run_directory / "report.html").is_file()
    assert result.report() == result.run_directory / "report.html"
    out = result.plot("params_m", "head_knn", result.run_directory / "cost.svg")
    assert out.is_file()


def test_a_search_that_was_left_is_loaded_again(result: headsearch.Result) -> None:
    again = headsearch.load(str(result.run_directory))
    pd.testing.assert_frame_equal(again.ranking, result.ranking)
    assert again.best == result.best
    assert again.advice in repr(again)
    with pytest.raises(UserError, match="no such run directory"):
        headsearch.load("nowhere")


def test_a_notebook_shows_the_ranking_and_runs_no_markup_of_the_run(
    result: headsearch.Result,
) -> None:
    evil = result.run.ranking.assign(candidate="<script>alert(1)</script>")
    shown = headsearch.Result(
        type(result.run)(result.run.path, result.run.config, result.run.facts, evil,
                         result.run.rungs)
    )._repr_html_()  # fmt: skip
    assert "<table>" in shown
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown


def test_a_head_of_the_result_is_exported_and_pretrained_on_the_same_dataset(
    result: headsearch.Result, tmp_path: Path
) -> None:
    files = result.export(head="mixer-d1", out=tmp_path)
    assert files.yaml == tmp_path / "mixer-d1.yaml"
    assert files.python.is_file()
    done = result.pretrain(head=files.yaml, out=tmp_path / "p", progress=False)
    assert done.weights.is_file()
    assert list(done.scores["rung"]) == [0, 1]
    assert "timm.create_model('test_vit'" in done.loading


def test_what_was_given_in_python_must_be_given_again(
    result: headsearch.Result, tmp_path: Path
) -> None:
    again = headsearch.load(result.run_directory)
    with pytest.raises(UserError, match=r"its data was given in Python \(Squares\)"):
        again.pretrain(out=tmp_path / "p")
    done = again.pretrain(data=Squares(160), out=tmp_path / "p", progress=False)
    assert done.weights.is_file()


class Convolutions(nn.Module):
    """A base of the user's own: a 4×4 map of images of 16 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 4, stride=4)
        self.mix = nn.Conv2d(24, 24, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = self.mix(self.stem(images).relu())
        return mixed


def test_a_module_of_the_users_own_is_a_base(tmp_path: Path) -> None:
    module = Convolutions()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    found = headsearch.search(module, SPACE, "scenes", out=tmp_path / "run", progress=False, **TINY)
    assert found.run.config["base"] == "Convolutions"
    assert found.run.config["given"] == ["base", "space"]
    assert len(headsearch.candidates(SPACE, module, 16)) == 3
    files = found.export(head="mixer-d1")
    assert "dim: int = 24" in files.python.read_text()
    done = found.pretrain(head="mixer-d1", out=tmp_path / "p", progress=False)
    assert done.loading.startswith("module.load_state_dict(")
    trained = load_file(done.weights)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    module.load_state_dict(trained, strict=True)
    assert not torch.equal(before["mix.weight"], module.mix.weight)
    with pytest.raises(UserError, match="its base was given in Python"):
        headsearch.load(found.run_directory).pretrain()
    with pytest.raises(UserError, match="its base was given in Python"):
        headsearch.export(found.run_directory)


def test_candidates_are_those_of_the_space_command() -> None:
    frame = headsearch.candidates("heads.yaml", "test_vit", patch_size=4)
    listing = load_space(find_space("heads.yaml")).on(plan_base("test_vit", 32, patch_size=4))
    expected = listing.enumerate(200)
    assert expected is not None
    assert list(frame["candidate"]) == [c.name for c in expected.candidates]
    assert frame["control"].sum() == 2
    assert (frame["gflops_share"] >= 0).all()
    path = ready_spaces()["heads.yaml"]
    for same in (path, load_space(path)):
        pd.testing.assert_frame_equal(headsearch.candidates(same, "test_vit", patch_size=4), frame)
    clips = headsearch.candidates("sequence.yaml", "vit_t", patch_size=4, clip_seconds=0.8)
    assert "lstm-d2" in set(clips["candidate"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"epoch": 3}, "unknown setting 'epoch'; did you mean 'epochs'"),
        ({"lr": -1}, "lr=…: input should be greater than 0"),
        ({"base": "vit_ss"}, "unknown base 'vit_ss'"),
        ({"base": 3}, "base must be a name or a torch.nn.Module"),
        ({"space": {"families": {"convnxt": {}}}}, "space.families.convnxt: unknown family"),
        ({"space": {"families": {"mixer": {"depth": "x"}}}}, "space.families.mixer.depth: "),
        ({"space": {"families": {"mixer": object()}}}, "space.families.mixer: must be a dict"),
        ({"space": {"families": {3: None}}}, "space.families: a key must be a word"),
        ({"data": [1, 2]}, "must be a PIL image"),
        ({"data": 3}, "a map-style dataset"),
        ({"data": Squares(160, "normalised")}, "must lie in [0, 1]"),
        ({"data": Squares(0)}, "Squares is empty"),
        ({"data": Squares(20)}, "holds 20 images"),
    ],
)
def test_mistakes_are_user_errors_of_one_line(
    arguments: dict[str, Any], words: str, tmp_path: Path
) -> None:
    settings = {"base": "test_vit", "space": SPACE, "out": tmp_path / "run", **TINY, **arguments}
    with pytest.raises(headsearch.UserError) as error:
        headsearch.search(**settings)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("form", ["pil", "uint8", "float"])
def test_a_dataset_gives_the_same_pixels_in_every_form(form: str) -> None:
    source = DatasetSource(Squares(6, form))
    reference = DatasetSource(Squares(6))
    assert source.classes == ("dark", "dim", "bright")
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1, 2, 0, 1, 2]
    for index in range(6):
        assert (source.pixels(index, 16) == reference.pixels(index, 16)).all()
        assert source.shorter_side(index) == 20
    # At its own size the crop of the centre is the image's own pixels.
    assert (source.pixels(0, 20) == Squares(6).pixels(0)[:, 2:22].transpose(2, 0, 1)).all()


def test_labels_come_from_targets_where_a_dataset_has_them() -> None:
    class WithTargets(Squares):
        targets = [5, 7, 5, 7, 5, 7]  # noqa: RUF012
        classes = ()

        def __getitem__(self, index: int) -> Any:
            assert index == 0, "no item but the first is read for its label"
            return super().__getitem__(index)

    source = DatasetSource(WithTargets(6))
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert source.classes == ("5", "7")
    part = DatasetSource(Subset(WithTargets(6), [0, 1, 3]))
    assert part.labels is not None
    assert part.labels.tolist() == [0, 1, 1]


class Columns(Squares):
    """A stand-in for a dataset of Hugging Face: items are dicts, and columns are read by name."""

    def __init__(self, count: int, label: str | None = "label", **further: int) -> None:
        super().__init__(count)
        self.image_key, self.label, self.further = "image", label, further
        self.names_of: dict[str, list[str]] = {}

    @property
    def column_names(self) -> list[str]:
        return list(self[0])

    @property
    def features(self) -> dict[str, Any]:
        column = type("ClassLabel", (), {})
        return {
            name: type("ClassLabel", (), {"names": self.names_of[name]})()
            if name in self.names_of
            else column()
            for name in self.column_names
        }

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            return [self[i][index] for i in range(self.count)]
        item = {self.image_key: self.image(index), **self.further}
        return item if self.label is None else {**item, self.label: 2 - index % 3}


@pytest.mark.parametrize(
    ("image", "label", "further"),
    [
        ("image", "label", {"id": 7}),
        ("img", "label", {}),
        ("img", "fine_label", {}),
        ("img", "fine_label", {"coarse_label": 4}),
    ],
)
def test_items_may_be_dicts_as_those_of_hugging_face(
    image: str, label: str, further: dict[str, int]
) -> None:
    dataset = Columns(6, label, **further)
    dataset.image_key, dataset.names_of = image, {label: ["zero", "one", "two"]}
    source = DatasetSource(dataset)
    assert source.labels is not None
    assert source.labels.tolist() == [2, 1, 0, 2, 1, 0]
    assert source.classes == ("zero", "one", "two")
    assert (source.pixels(1, 16) == DatasetSource(Squares(6)).pixels(1, 16)).all()
    assert [("coarse_label" in note) for note in source.notes] == [True] * len(
        [name for name in further if "label" in name]
    )
    part = DatasetSource(Subset(dataset, [0, 2]))
    assert part.labels is not None
    assert part.labels.tolist() == [1, 0]
    assert part.classes == ("zero", "two")


def test_labels_of_dicts_come_from_their_column_or_else_from_the_items() -> None:
    class OneRead(Columns):
        def __getitem__(self, index: Any) -> Any:
            assert index in ("label", 0), "no item but the first is read for its label"
            return [5, 7, 5] if index == "label" else super().__getitem__(index)

    source = DatasetSource(OneRead(3))
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1, 0]
    assert source.classes == ("5", "7")

    class Plain(Columns):
        """A torch dataset with dicts as items: no columns, tensors as images and labels."""

        column_names = features = None  # type: ignore[assignment]

        def __getitem__(self, index: Any) -> Any:
            pixels = torch.from_numpy(self.pixels(index)).permute(2, 0, 1)
            return {"image": pixels, "label": torch.tensor(index % 3)}

    source = DatasetSource(Plain(6))
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_dicts_without_a_label_are_unlabelled_and_said_to_be_so() -> None:
    source = DatasetSource(Columns(6, None, id=3))
    assert source.labels is None
    assert source.notes == ("Columns: its items have no label (keys: 'image' and 'id')",)


@pytest.mark.parametrize(
    ("image", "label", "further", "words"),
    [
        ("picture", "label", {}, "its image is not clear: the keys are 'picture' and 'label'"),
        ("image", "label", {"img": 1}, "its image is not clear: the keys are 'image', 'img' and"),
        ("image", "label", {"fine_label": 1}, "its label is not clear: the keys are 'image', 'fi"),
        ("image", "target", {}, "its label is not clear: the keys are 'image' and 'target'"),
        ("image", "species", {}, "its label is not clear: the keys are 'image' and 'species'"),
        ("image", "coarse_label", {"digit_class": 1}, "'digit_class' and 'coarse_label'"),
    ],
)
def test_dicts_whose_image_or_label_is_not_clear_are_refused(
    image: str, label: str, further: dict[str, int], words: str
) -> None:
    dataset = Columns(6, label, **further)
    dataset.image_key, dataset.names_of = image, {label: ["zero", "one", "two"]}
    with pytest.raises(UserError) as error:
        DatasetSource(dataset)
    assert words in str(error.value)
    assert "rename or remove columns, or give (image, label) items" in str(error.value)


def test_several_datasets_in_a_dict_and_items_that_lack_a_key_are_refused() -> None:
    with pytest.raises(UserError, match="one dataset, but is a dict with the keys 'train' and"):
        DatasetSource({"train": Columns(6), "test": Columns(6)})

    class Lacking(Columns):
        def __getitem__(self, index: Any) -> Any:
            return super().__getitem__(index) if index in (0, "label") else {"label": 1}

    source = DatasetSource(Lacking(1))
    with pytest.raises(UserError, match=r"Lacking\[3\] has no 'image' \(keys: 'label'\)"):
        source.pixels(3, 16)


def test_a_dataset_of_dicts_is_split_like_any_other() -> None:
    data = open_data(
        DatasetSource(Columns(160)), settings=DataSettings(image_size=16, eval_images=64, images=64)
    )
    assert data.bank is not None
    assert data.queries.classes == ("dark", "dim", "bright")


def test_images_without_labels_are_a_dataset_too() -> None:
    data = open_data(
        DatasetSource(Squares(160, labelled=False)),
        settings=DataSettings(image_size=16, eval_images=64, images=64),
    )
    assert data.bank is None
    assert data.train.labels is None
    assert any("no labels" in note for note in data.notes)

    class Unknown(Squares):
        def __getitem__(self, index: int) -> Any:
            return self.image(index), -1

    source = DatasetSource(Unknown(6))
    assert source.labels is None
    assert "unlabelled" in source.notes[0]


def test_labels_that_are_no_numbers_are_refused() -> None:
    class Named(Squares):
        def __getitem__(self, index: int) -> Any:
            return self.image(index), "cat"

    with pytest.raises(UserError, match=r"a label must be a whole number.*is a str"):
        DatasetSource(Named(6))


def test_train_and_evaluation_datasets_share_their_classes() -> None:
    data = open_data(
        DatasetSource(Squares(96)),
        DatasetSource(Squares(64, "float")),
        DataSettings(image_size=16),
    )
    assert data.bank is not None
    assert data.queries.classes == data.bank.classes == ("dark", "dim", "bright")
    assert len(data.queries) == 64
    assert len(data.train) == 96


def test_importing_headsearch_loads_nothing_heavy() -> None:
    code = (
        "import sys, headsearch\n"
        "assert 'search' in dir(headsearch)\n"
        "print(sorted({'torch', 'timm', 'optuna', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_room_of_the_package_takes_a_name_of_the_api() -> None:
    for module in pkgutil.walk_packages(headsearch.__path__, "headsearch."):
        importlib.import_module(module.name)
    for name in headsearch.__all__:
        found = getattr(headsearch, name)
        assert not isinstance(found, type(sys)), f"headsearch.{name} is a module"
        assert found is getattr(api, name)
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        headsearch.serch  # noqa: B018


def test_the_example_runs(tmp_path: Path) -> None:
    job = ForkedJob(1, ROOT / "examples" / "search_and_pretrain.py", tmp_path)
    out, err = job.communicate(timeout=300)
    assert job.returncode == 0, err
    assert "features (2, 64)" in out
    assert (tmp_path / "pretrained" / "base.safetensors").is_file()


def test_an_engine_takes_names_and_no_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(headsearch.UserError, match=r"engine=.* must be local"):
        headsearch.search(engine="remote", out=tmp_path / "run")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with pytest.raises(headsearch.UserError, match="base is an object, which the processes of"):
        headsearch.search(base=nn.Identity(), engine="local", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
