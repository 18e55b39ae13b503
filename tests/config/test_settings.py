"""Settings: flag over config file over preset; errors name the wrong setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from headsearch.config.presets import PRESETS
from headsearch.config.settings import RunConfig, panel_of, resolve
from headsearch.errors import UserError


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_flags_win_over_the_config_file_and_that_over_the_preset(tmp_path: Path) -> None:
    file = written(tmp_path / "run.yaml", "budget: standard\nepochs: 4\nbatch-size: 32\n")
    config = resolve({"epochs": 7}, file)
    assert (config.epochs, config.batch_size) == (7, 32)
    assert config.images == PRESETS["standard"]["images"]


def test_auto_is_quick_on_a_cpu_and_does_more_on_an_accelerator() -> None:
    assert resolve({}).budget == "quick"
    accelerated = resolve({}, accelerator=True)
    assert accelerated.budget == "standard"
    assert accelerated.images * accelerated.epochs > resolve({}).images * resolve({}).epochs


def test_every_setting_says_what_it_is() -> None:
    for name, field in RunConfig.model_fields.items():
        assert field.description, name
        assert panel_of(name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch: 3\n", ["unknown setting 'epoch'", "'epochs'"]),
        ("lr: 0.1\nepochs: many\n", ["run.yaml:2: epochs", "integer", "'many'"]),
        ("epochs: [3]\n", ["run.yaml:1", "single value"]),
        ("lr: .inf\n", ["run.yaml:1: lr"]),
        ("lr: -1\n", ["lr", "greater than 0", "-1"]),
        ("budget: huge\n", ["unknown budget 'huge'"]),
        ("coupling: loose\n", ["coupling", "'joint' or 'observe'"]),
        ("- epochs\n", ["mapping"]),
        ("epochs: [1\n", ["run.yaml:", "not valid YAML"]),
        ("epochs: 3\nlr: !!python/object/apply:os.system ['true']\n", ["tag"]),
    ],
)
def test_a_wrong_config_file_is_named_with_what_is_wrong(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    file = written(tmp_path / "run.yaml", text)
    with pytest.raises(UserError) as error:
        resolve({}, file)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), error.value


def test_a_config_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml"):
        resolve({}, tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"bytes\.yaml"):
        resolve({}, tmp_path / "bytes.yaml")


def test_a_runs_own_record_is_a_config_file_and_names_no_directory(tmp_path: Path) -> None:
    text = "epochs: 5\nout: results/first\nversions: {torch: '2'}\nstudy_name: x\n"
    config = resolve({}, written(tmp_path / "config.yaml", text))
    assert (config.epochs, config.out) == (5, None)


def test_the_error_for_a_wrong_flag_names_the_flag() -> None:
    with pytest.raises(UserError, match=r"--batch-size: .* but got 1"):
        resolve({"batch_size": 1})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3, "0 (all) or a number of images from 8 on"),
        ("7", "0 (all) or a number of images from 8 on"),
        (-1, "greater than or equal to 0"),
        (True, "should be a number"),
        ("many", "valid integer"),
        ("", "must not be empty"),
    ],
)
def test_a_bank_too_small_to_mean_anything_is_refused(given: object, words: str) -> None:
    with pytest.raises(UserError) as refused:
        resolve({"bank_images": given})
    assert words in str(refused.value)
    assert str(refused.value).startswith("--bank-images: ")


@pytest.mark.parametrize("given", [0, "0", 8])
def test_a_bank_of_all_images_or_of_eight_is_taken(given: object) -> None:
    assert resolve({"bank_images": given}).bank_images == int(str(given))
