"""Opening further evaluation sets: two sets or one, columns and files of labels, pairs, faults."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from headsearch.config.domains import AUDIO, TEXT
from headsearch.config.task_settings import tasks_of
from headsearch.data import Data, DataSettings, open_data
from headsearch.data.image.skipped import TooManyBadError
from headsearch.data.settings import TextSettings
from headsearch.data.tasks import Task, fingerprint, open_tasks
from headsearch.data.text.tokens import unpacked
from headsearch.errors import UserError
from helpers.clips import tone_folder
from helpers.image_files import class_files, write
from helpers.texts import made_up, text_table

SETTINGS = DataSettings(
    domain=TEXT, eval_images=64, bank_images=60, text=TextSettings(tokens=24, vocab_size=320)
)


def rows_to(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """The texts that a base is pretrained on."""
    table = text_table(tmp_path_factory.mktemp("texts") / "texts.csv", 150)
    return open_data(str(table), None, SETTINGS)


def opened(data: Data, text: str, settings: DataSettings = SETTINGS) -> list[Task]:
    assert data.form is not None
    return list(open_tasks(tasks_of(text), settings, data.form, data.left_out))


def refused(data: Data, text: str) -> str:
    with pytest.raises(UserError) as error:
        opened(data, text)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_bank_and_queries_are_two_tables_in_the_form_of_the_run(data: Data, tmp_path: Path) -> None:
    bank = text_table(tmp_path / "bank.csv", 90, seed=1)
    queries = text_table(tmp_path / "queries.csv", 80, seed=2)
    (task,) = opened(data, f"other={bank},{queries}")
    assert task.bank is not None
    assert (len(task.bank), len(task.queries)) == (60, 64)
    assert task.queries.shape == data.train.shape
    assert task.bank.classes == task.queries.classes == ("money", "travel", "weather")
    assert sorted(task.order.tolist()) == list(range(64))
    assert "60 bank texts, 64 queries, 3 classes" in task.notes[0]


def test_every_part_of_the_order_has_all_classes_in_proportion(data: Data, tmp_path: Path) -> None:
    (task,) = opened(data, f"other={text_table(tmp_path / 'texts.csv', 150, seed=3)}")
    labels = task.queries.labels
    assert labels is not None
    for part in task.order.chunk(4):
        counts = torch.bincount(labels[part], minlength=3)
        assert int(counts.max() - counts.min()) <= 2


def test_classes_of_unequal_sizes_are_in_proportion_everywhere(data: Data, tmp_path: Path) -> None:
    """Also where classes are left out, whose samples then come in turn: one of each class."""
    rows = [row for row in made_up(900, seed=9) if row[1] != "travel"]
    kept = [row for i, row in enumerate(rows) if row[1] == "money" or i % 8 == 0]
    kept += [row for row in made_up(30, seed=10) if row[1] == "travel"]
    table = rows_to(tmp_path / "texts.csv", ("text", "label"), kept)
    settings = replace(SETTINGS, probe_classes=2, eval_images=0)
    (task,) = opened(data, f"other={table},{table}", settings)
    labels = task.queries.labels
    assert labels is not None
    counts = [torch.bincount(labels[part], minlength=2) for part in task.order.chunk(4)]
    smallest, largest = (each(int(count[0]) for count in counts) for each in (min, max))
    assert largest - smallest <= 2


def test_one_table_is_split_and_bank_and_queries_share_no_text(data: Data, tmp_path: Path) -> None:
    (task,) = opened(data, f"other={text_table(tmp_path / 'texts.csv', 150, seed=3)}")
    assert task.bank is not None
    sets = [
        {tuple(row) for row in unpacked(part.batch(torch.arange(len(part)))).tolist()}
        for part in (task.bank, task.queries)
    ]
    assert not sets[0] & sets[1]


def test_a_column_names_the_labels(data: Data, tmp_path: Path) -> None:
    rows = [(text, label, f"{len(text) % 2}") for text, label in made_up(150, seed=4)]
    table = rows_to(tmp_path / "texts.csv", ("text", "label", "parity"), rows)
    by_label, by_parity = opened(data, f"a={table};b={table}@parity")
    assert by_label.queries.classes == ("money", "travel", "weather")
    assert by_parity.queries.classes == ("0", "1")


def test_pairs_have_their_texts_in_order_and_their_scores(data: Data, tmp_path: Path) -> None:
    texts = [text for text, _ in made_up(160, seed=5)]
    rows = [(texts[i], texts[i + 80], i / 10) for i in range(80)]
    table = rows_to(tmp_path / "pairs.csv", ("Sentence1", "sentence2", "score"), rows)
    (task,) = opened(data, f"sts={table}", replace(SETTINGS, eval_images=70))
    assert task.bank is None
    assert task.scores is not None
    assert len(task.queries) == 140
    assert data.encoder is not None
    for place in (0, 33, 69):
        index = round(float(task.scores[place]) * 10)
        for offset, text in ((0, texts[index]), (70, texts[index + 80])):
            expected = torch.from_numpy(data.encoder.packed(text))
            assert torch.equal(task.queries.batch(torch.tensor([place + offset]))[0], expected)


def test_a_pair_with_a_text_that_cannot_be_used_is_left_out(data: Data, tmp_path: Path) -> None:
    texts = [text for text, _ in made_up(160, seed=6)]
    rows = [("" if i == 7 else texts[i], texts[i + 80], i) for i in range(80)]
    table = rows_to(tmp_path / "pairs.csv", ("a", "b", "alike"), rows)
    (task,) = opened(data, f"sts={table}@a,b,alike", replace(SETTINGS, eval_images=0))
    assert task.scores is not None
    assert sorted(task.scores.tolist()) == [i for i in range(80) if i != 7]
    assert "1 pair left out" in task.notes[1]


def test_clips_take_a_file_of_labels_of_their_own(tmp_path: Path) -> None:
    folder = tone_folder(tmp_path / "clips", each=30)
    files = sorted(file.relative_to(folder) for file in folder.rglob("*.wav"))
    rows = [(file, "odd" if index % 2 else "even") for index, file in enumerate(files)]
    labels = rows_to(tmp_path / "labels.csv", ("file", "label"), rows)
    settings = replace(SETTINGS, domain=AUDIO, text=TextSettings())
    data = open_data(str(folder), None, settings)
    by_pitch, by_number = opened(data, f"pitch={folder};number={folder}@{labels}", settings)
    assert by_pitch.queries.classes == ("pitch0", "pitch1", "pitch2", "pitch3")
    assert by_number.queries.classes == ("even", "odd")
    assert by_number.queries.shape == data.train.shape


def test_images_are_taken_too(tmp_path: Path) -> None:
    folder = write(tmp_path / "images", class_files({"a": 60, "b": 60}))
    settings = DataSettings(eval_images=64, bank_images=60, image_size=16)
    data = open_data("scenes", None, replace(settings, images=64))
    (task,) = opened(data, f"other={folder}", settings)
    assert task.queries.shape == data.train.shape
    assert task.bank is not None


def test_the_fingerprint_changes_with_labels_and_scores(data: Data, tmp_path: Path) -> None:
    texts = [text for text, _ in made_up(160, seed=7)]
    tables = []
    for name, factor in (("one", 1.0), ("same", 1.0), ("other", 2.0)):
        rows = [(texts[i], texts[i + 80], factor * (i % 9)) for i in range(80)]
        tables.append(rows_to(tmp_path / f"{name}.csv", ("text1", "text2", "score"), rows))
    prints = [fingerprint(opened(data, f"sts={table}")) for table in tables]
    assert prints[0] == prints[1] != prints[2]


def test_what_is_no_task_is_refused_in_one_line(data: Data, tmp_path: Path) -> None:
    texts = [text for text, _ in made_up(160)]
    pairs = [(texts[i], texts[i + 80], 1) for i in range(80)]
    alike = rows_to(tmp_path / "alike.csv", ("text1", "text2", "score"), pairs)
    few = rows_to(tmp_path / "few.csv", ("text1", "text2", "score"), pairs[:20])
    bad = rows_to(tmp_path / "bad.csv", ("text1", "text2", "score"), [("a", "b", "much")])
    bare = rows_to(tmp_path / "bare.csv", ("text1", "text2"), [row[:2] for row in pairs])
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(texts))
    two = rows_to(
        tmp_path / "two.csv", ("text", "label"), [r for r in made_up(90) if r[1] != "weather"]
    )
    all_three = text_table(tmp_path / "three.csv", 90, seed=8)
    assert "same score" in refused(data, f"x={alike}")
    assert "20 usable pairs; 60 are needed" in refused(data, f"x={few}")
    assert "line 2: the score 'much' is no number" in refused(data, f"x={bad}")
    assert "which column holds the scores" in refused(data, f"x={bare}")
    assert "unknown column" in refused(data, f"x={alike}@text1,text3,score")
    assert "does not exist" in refused(data, f"x={tmp_path}/none.csv")
    assert "has no labels" in refused(data, f"x={lines}")
    assert "unknown label column" in refused(data, f"x={all_three}@topic")
    assert "for which there is no bank" in refused(data, f"x={alike},{few}")
    assert "lacks the class weather" in refused(data, f"x={two},{all_three}")


def test_too_many_bad_texts_are_refused(data: Data, tmp_path: Path) -> None:
    rows = [("" if i % 2 else text, label) for i, (text, label) in enumerate(made_up(150))]
    table = rows_to(tmp_path / "bad.csv", ("text", "label"), rows)
    with pytest.raises(TooManyBadError, match="--max-bad-images"):
        opened(data, f"x={table}")


def test_each_twentieth_of_the_built_in_images_has_all_classes() -> None:
    settings = DataSettings(eval_images=80, bank_images=60, image_size=16)
    data = open_data("scenes", None, replace(settings, images=64))
    (task,) = opened(data, "other=scenes,scenes", settings)
    labels = task.queries.labels
    assert labels is not None
    for part in task.order.chunk(8):  # of ten images
        assert len(labels[part].unique()) == 10
