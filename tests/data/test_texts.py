"""Texts: files of many kinds, bad ones among them; token ids as bytes; random views."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from sklearn.feature_extraction.text import TfidfTransformer

from headsearch.config.text_views import TextViews, views_for_texts
from headsearch.data import DataSettings, open_data
from headsearch.data.domains import DOMAINS, found_domain
from headsearch.data.settings import TextSettings
from headsearch.data.text.tables import read_table
from headsearch.data.text.tokens import (
    BadText,
    Encoder,
    cleaned,
    new_tokenizer,
    pack,
    raw_counts,
    unpacked,
)
from headsearch.data.text.views import make_text_views
from headsearch.errors import UserError
from headsearch.models.bases.text_base import dropped
from helpers.texts import made_up, text_table

tokenizers = pytest.importorskip("tokenizers")


def opened(data: Path | str, **changes: object):
    text = changes.pop("text", TextSettings(vocab_size=320))
    return open_data(
        str(data), None, DataSettings(domain="text", eval_images=40, text=text, **changes)
    )


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
def test_the_same_rows_in_every_kind_of_table(tmp_path: Path, suffix: str) -> None:
    rows = [*made_up(3), ('said "no",\tand left', "money"), ("zwei\nZeilen, größer", "travel")]
    path = tmp_path / f"rows{suffix}"
    if suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            delimiter = "," if suffix == ".csv" else "\t"
            csv.writer(file, delimiter=delimiter).writerows([("text", "intent"), *rows])
    else:
        records = [{"text": text, "intent": label, "score": 1.5} for text, label in rows]
        lines = json.dumps(records) if suffix == ".json" else "\n".join(map(json.dumps, records))
        path.write_text(lines)
    found = read_table(path, None, None)
    assert list(zip(found.texts, found.labels or (), strict=True)) == rows


def test_columns_are_found_by_their_names_or_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,sentence,label,topic\n1,a b,x,u\n2,c d,y,v\n")
    assert read_table(path, None, None).labels == ["x", "y"]
    other = read_table(path, "label", "topic")
    assert (other.texts, other.labels) == (["x", "y"], ["u", "v"])
    path.write_text("only\na b\nc d\n")
    assert read_table(path, None, None).texts == ["a b", "c d"]
    path.write_text("text,label\na b,x\nc d,\n")
    found = read_table(path, None, None)
    assert found.labels is None
    assert "1 of 2 rows have no label" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"first,second\na,b\n", "which column holds the texts is not clear"),
        ("a.csv", b"text,label\n", "has no rows"),
        ("a.csv", b"\xff\xfet\0e\0x\0t\0", "is UTF-16, and texts are read as UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n["b"]\n', "entry 2 is no object"),
        ("a.jsonl", b'{"text": \n', "cannot be read as .jsonl"),
        ("a.json", b'{"text": "a"}', "its JSON is no list of objects"),
        ("a.json", b"[" * 100_000, "cannot be read as .json"),
        ("a.txt", b"", "64 are needed"),
        ("a.bin", b"\0\1", "neither a folder nor a .tar of texts"),
        ("a.txt", b"one text\n" * 30, "64 are needed"),
    ],
)
def test_files_that_cannot_be_read_are_one_line(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        opened(tmp_path / name)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="does not exist"):
        opened(tmp_path / f"no-{name}")


def test_what_is_no_file_of_texts_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--data scenes are the built-in images"):
        opened("scenes")
    table = text_table(tmp_path / "train.csv", 5)
    with pytest.raises(UserError, match=f"is a folder of tables: name one of them, {table}"):
        opened(tmp_path)


def test_bad_texts_are_left_out_and_listed(tmp_path: Path) -> None:
    lines = [text.encode() for text, _ in made_up(200)]
    lines[3], lines[7], lines[9] = b"", b"caf\xe9 latin", b" \x00\x07 "
    lines[11], lines[12] = b"word " * 200_000, b"bell\x07in a text"
    (tmp_path / "lines.txt").write_bytes(b"\n".join(lines))
    data = opened(tmp_path / "lines.txt")
    assert len(data.train) + len(data.queries) == 197
    reasons = sorted(line.rpartition(": ")[2] for line in data.left_out.lines)
    assert reasons == ["empty", "empty", "not UTF-8"]
    assert any("lines.txt line 8" in line for line in data.left_out.lines)


def test_texts_in_folders_of_classes(tmp_path: Path) -> None:
    for number, (text, label) in enumerate(made_up(150)):
        (tmp_path / label).mkdir(exist_ok=True)
        (tmp_path / label / f"{number}.txt").write_text(text)
    data = opened(tmp_path)
    assert data.train.classes == ("money", "travel", "weather")
    assert len(data.train) + len(data.queries) == 150


def test_several_files_are_one_set(tmp_path: Path) -> None:
    one, two = text_table(tmp_path / "a.csv", 90, seed=1), text_table(tmp_path / "b.csv", 60, 2)
    data = opened(f"{one}::{two}")
    assert len(data.train) + len(data.queries) == 150
    assert len(data.train.classes) == 3
    lines = tmp_path / "c.txt"
    lines.write_text("\n".join(text for text, _ in made_up(30, 3)))
    assert opened(f"{one}::{lines}").train.labels is None


def test_without_tokenizers_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"needs tokenizers: pip install 'headsearch\[text\]'"):
        opened(text_table(tmp_path / "texts.csv", 100))


def test_the_base_decides_the_domain() -> None:
    assert found_domain("texts.csv", "hf:gpt2") == "text"
    assert found_domain("texts.csv", "vit_t") == "image"


def test_cleaning() -> None:
    assert cleaned("  a\tb\x00c\r\nd ", 8) == "a b c d"
    assert cleaned("e\u0301", 8) == "é"
    assert cleaned("x" * 10_000, 8) == "x" * 512
    for text in ("", " \n", "\x07"):
        with pytest.raises(BadText, match="empty"):
            cleaned(text, 8)
    with pytest.raises(BadText, match="not UTF-8"):
        cleaned(b"caf\xe9".decode(errors="surrogateescape"), 8)


def test_ids_are_kept_as_bytes() -> None:
    ids = [0, 1, 255, 256, 65_535, 70_000, 2**24 - 2]
    batch = torch.from_numpy(pack(ids, 9))[None]
    assert batch.shape == (1, 3, 1, 9)
    assert unpacked(batch).tolist() == [[*ids, -1, -1]]


def test_the_same_texts_give_the_same_vocabulary() -> None:
    texts = [text for text, _ in made_up(300)]
    one, two = new_tokenizer(texts, 350), new_tokenizer(texts, 350)
    assert one.to_str() == two.to_str()
    assert one.get_vocab_size() == 350
    assert one.token_to_id("[PAD]") == 0
    unknown = "Ünïcode 你好 \U0001f600"
    assert one.decode(one.encode(unknown).ids) == unknown


def views_of(ids: torch.Tensor, seed: int = 0, **settings: object) -> torch.Tensor:
    packed = torch.stack([
        torch.from_numpy(pack([i for i in row if i >= 0], len(row))) for row in ids.tolist()
    ])  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    return make_text_views(packed, generator, TextViews(**settings), 2, (0, 1))


def test_views_are_parts_of_a_text_in_order() -> None:
    lengths = torch.randint(1, 13, (64,), generator=torch.Generator().manual_seed(1))
    ids = torch.where(torch.arange(12) < lengths[:, None], torch.arange(12) + 5, -1)
    plain = views_of(ids, span=(1.0, 1.0), deletion=0.0, dropout=0.0)
    assert torch.equal(plain[:, :, 0], ids.expand(2, -1, -1))
    assert plain[:, :, 1].eq(0).all()
    views = views_of(ids, span=(0.5, 0.8), deletion=0.3)
    for view, text in zip(views.flatten(0, 1)[:, 0].tolist(), [*ids.tolist()] * 2, strict=True):
        kept = [i for i in view if i >= 0]
        length = sum(i >= 0 for i in text)
        assert view == kept + [-1] * (12 - len(kept))
        assert kept == sorted(set(kept))
        assert set(kept) <= set(text)
        assert 1 <= len(kept) <= max(1, -(-length * 8 // 10))
    share = views[:, :, 0].ge(0).sum() / (2 * lengths.sum())
    assert 0.65 * 0.7 - 0.05 < share < 0.65 * 0.7 + 0.1


def test_views_depend_on_the_generator_and_not_on_the_number_of_processes() -> None:
    ids = torch.arange(5, 69).view(8, 8)
    assert torch.equal(views_of(ids), views_of(ids))
    assert not torch.equal(views_of(ids), views_of(ids, seed=1))
    packed = torch.stack([torch.from_numpy(pack(row, 8)) for row in ids.tolist()])
    parts = [
        make_text_views(half, torch.Generator().manual_seed(0), TextViews(), 2, (index, 2))
        for index, half in enumerate(packed.split(4))
    ]
    assert torch.equal(torch.cat(parts, dim=1), views_of(ids))


def test_dropout_of_embeddings_has_its_rate_and_scale() -> None:
    noise = views_of(torch.full((64, 16), 7), dropout=0.25)[:, :, 1].flatten(0, 1)
    ones = torch.ones(128, 16, 32)
    found = dropped(ones, noise)
    share = (found == 0).float()
    assert abs(share.mean() - 0.25) < 0.01  # of 65,536 values: 0.0017 is one standard error
    assert found.unique().tolist() == pytest.approx([0, 4 / 3])
    for axis in ((1, 2), (0, 2), (0, 1)):  # no text, place or value of an embedding is special
        means = share.mean(axis)
        expected = (0.25 * 0.75 / (share.numel() / len(means))) ** 0.5
        assert 0.5 * expected < means.std() < 1.7 * expected
    together = (share[..., 0] * share[..., 1]).mean()
    assert abs(together - 0.0625) < 0.02
    assert torch.equal(dropped(ones, torch.zeros_like(noise)), ones)


def test_the_baseline_is_tf_idf() -> None:
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 50, (40, 12), generator=chance)
    ids[5:, 9:] = -1
    packed = torch.stack([
        torch.from_numpy(pack([i for i in row if i >= 0], 12)) for row in ids.tolist()
    ])  # fmt: skip
    domain = DOMAINS["text"]
    shape = Encoder(new_tokenizer(["a b"], 300), 12).shape
    found = domain.raw(iter(packed.split(16)), shape)
    counts = raw_counts(ids, shape.vocabulary)
    assert counts[0].tolist() == [Counter(ids[0].tolist())[i] for i in range(shape.vocabulary)]
    reference = TfidfTransformer(sublinear_tf=True, smooth_idf=False).fit(counts.numpy())
    # scikit-learn adds 1 to the logarithm, so that a token of all texts counts.
    weights = torch.from_numpy(reference.idf_).float() - 1
    used = counts.sum(0) > 0
    want = torch.where(counts > 0, 1 + counts.log(), counts)[:, used] * weights[used]
    want = torch.nn.functional.normalize(want, dim=1)
    torch.testing.assert_close(found @ found.T, want @ want.T)


def test_values_of_views_are_checked() -> None:
    assert views_for_texts("published") == TextViews(span=(1.0, 1.0), deletion=0.0)
    assert views_for_texts("span=0.5/0.9,dropout=0.2") == TextViews((0.5, 0.9), 0.1, 0.2)
    assert views_for_texts(str(TextViews())) == TextViews()
    for text, said in (("deletion=2", "a share from 0 to 0.9"), ("span=0.9/0.5", "low <= high")):
        with pytest.raises(UserError, match=said):
            views_for_texts(text)
