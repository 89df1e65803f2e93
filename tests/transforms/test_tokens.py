"""Texts as numbers and back."""

from __future__ import annotations

import sys

import pytest

import kiln
from kiln import transforms
from kiln.transforms.text import Tokenizer, Vocabulary

TEXTS = ["to be, or not to be:", "that is the question"] * 20


def test_characters():
    v = Vocabulary.build(TEXTS)
    ids = v.encode("to be")
    assert ids.dtype is kiln.int64
    assert v.decode(ids) == "to be"
    assert v.tokens[:2] == ["<pad>", "<unk>"]
    assert v.encode("tz").tolist() == [v["t"], v.unknown_id]
    assert v.tokens[2] == " "  # the most frequent comes first
    assert v.decode(v.encode("")) == ""


def test_words():
    v = Vocabulary.build(TEXTS, "word")
    assert v.decode(v.encode("be  to, be")) == "be to , be"
    assert len(Vocabulary.build(TEXTS, "word", size=5)) == 5
    assert "question" not in Vocabulary.build([*TEXTS, "to"], "word", min_count=21)
    assert "to" in Vocabulary.build([*TEXTS, "to"], "word", min_count=21)


def test_batches():
    v = Vocabulary.build(TEXTS, "word")
    ids, mask = v.batch(["to be", "that is the question", ""])
    assert ids.shape == (3, 4)
    assert ids[0].tolist() == [v["to"], v["be"], v.pad_id, v.pad_id]
    assert mask.tolist() == [[True, True, False, False], [True] * 4, [False] * 4]
    assert v.decode(ids[0]) == "to be"
    ids, mask = v.batch(["that is the question"], length=2)
    assert v.decode(ids[0]) == "that is"


def test_vocabularies_in_files(tmp_path):
    v = Vocabulary.build([*TEXTS, "grüße"], "word")
    v.save(tmp_path / "words.json")
    again = Vocabulary.load(tmp_path / "words.json")
    assert (again.tokens, again.level) == (v.tokens, "word")
    (tmp_path / "other.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="not a vocabulary"):
        Vocabulary.load(tmp_path / "other.json")


def test_wrong_vocabularies():
    with pytest.raises(ValueError, match="no such level"):
        Vocabulary.build(TEXTS, "syllable")
    with pytest.raises(ValueError, match="twice"):
        Vocabulary(["a", "a"])
    with pytest.raises(ValueError, match="not known"):
        Vocabulary(["a"]).encode("b")


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError) as e:
        Tokenizer.train(TEXTS)
    assert str(e.value).splitlines()[2] == "help: pip install 'kiln-dl[text]'"


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_subwords(kind, tmp_path):
    pytest.importorskip("tokenizers", reason="tokenizers is not installed: extra [text]")
    t = Tokenizer.train(TEXTS, size=400, kind=kind)
    ids = t.encode("to be the question")
    assert ids.dtype is kiln.int64
    assert t.decode(ids) == "to be the question"
    assert len(ids) < len("to be the question")
    assert t.pad_id == 0
    batch, mask = t.batch(["to be", "not to be that is"])
    assert batch.shape == mask.shape
    assert t.decode(batch[0]) == "to be"
    t.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    assert len(again) == len(t)
    assert again.encode("question").tolist() == t.encode("question").tolist()
    if kind == "bpe":
        assert t.decode(t.encode("grüße 世界")) == "grüße 世界"  # bytes are never unknown
    with pytest.raises(ValueError, match="no such kind"):
        Tokenizer.train(TEXTS, kind="morse")


def test_where_transforms_are():
    from kiln.vision import transforms as pictures

    assert transforms.vision is pictures
    assert transforms.Compose is pictures.Compose
    assert kiln.transforms.audio.MFCC.__module__ == "kiln.transforms.audio"
    with pytest.raises(AttributeError, match="video"):
        transforms.video
