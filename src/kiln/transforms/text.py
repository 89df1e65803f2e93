"""Texts as numbers: a vocabulary of characters or words, and the subwords of the package `tokenizers` (extra [text])."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..errors import KilnValueError, describe
from ..extras import need
from ..io.files import read_bytes, write_bytes
from ..ops.creation import from_numpy
from ..tensor import Tensor

PAD, UNKNOWN = "<pad>", "<unk>"
_WORDS = re.compile(r"\w+|[^\w\s]")
_LEVELS = ("char", "word")


class Encoder:
    """What tokenizers share: single texts and batches of them as tensors."""

    pad_id = 0

    def _numbers(self, text: str) -> list[int]:
        raise NotImplementedError

    def encode(self, text: str) -> Tensor:
        """The tokens of a text: i64[n]."""
        return from_numpy(np.array(self._numbers(text), np.int64))

    def batch(self, texts: Sequence[str], length: int | None = None) -> tuple[Tensor, Tensor]:
        """The tokens of texts, i64[len(texts), length], and which of them are no padding, bool of that shape.

        Without a length it is that of the longest; with one, what is longer is cut.
        """
        rows = [self._numbers(t) for t in texts]
        n = max(map(len, rows), default=0) if length is None else length
        ids = np.full((len(rows), n), self.pad_id, np.int64)
        mask = np.zeros((len(rows), n), np.bool_)
        for i, row in enumerate(rows):
            kept = row[:n]
            ids[i, : len(kept)], mask[i, : len(kept)] = kept, True
        return from_numpy(ids), from_numpy(mask)

    def __call__(self, text: str) -> Tensor:
        return self.encode(text)


def _plain(ids: Any) -> list[int]:
    return ids.tolist() if hasattr(ids, "tolist") else list(ids)


class Vocabulary(Encoder):
    """Characters or words by number; the first are `specials`, of which <pad> fills batches and <unk> stands for what isn't known.

    >>> words = Vocabulary.build(["to be or not to be"], level="word")
    >>> words.decode(words.encode("to be"))
    'to be'
    """

    def __init__(self, tokens: Iterable[str], level: str = "char") -> None:
        self.tokens, self.level = list(tokens), _checked(level)
        self._of = {t: i for i, t in enumerate(self.tokens)}
        if len(self._of) != len(self.tokens):
            twice = [t for t, n in Counter(self.tokens).items() if n > 1]
            raise KilnValueError(
                "Vocabulary", "a token is there twice", twice[:8], "each token once"
            )
        self.pad_id = self._of.get(PAD, 0)
        self.unknown_id = self._of.get(UNKNOWN)

    @classmethod
    def build(
        cls, texts: str | Iterable[str], level: str = "char", size: int | None = None, min_count: int = 1,
        specials: Sequence[str] = (PAD, UNKNOWN),
    ) -> Vocabulary:  # fmt: skip
        """Of the most frequent tokens in texts, at most `size` with the specials; ties in the order of the alphabet."""
        _checked(level)
        counts: Counter[str] = Counter()
        for text in [texts] if isinstance(texts, str) else texts:
            counts.update(_split(text, level))
        found = sorted((t for t, n in counts.items() if n >= min_count and t not in specials), key=lambda t: (-counts[t], t))  # fmt: skip
        room = None if size is None else max(0, size - len(specials))
        return cls([*specials, *found[:room]], level)

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: str) -> bool:
        return token in self._of

    def __getitem__(self, token: str) -> int:
        """A token's number, or that of <unk>; ValueError where there is none."""
        found = self._of.get(token, self.unknown_id)
        if found is None:
            raise KilnValueError(
                "Vocabulary", f"a token that is not known, and no {UNKNOWN} stands for it", repr(token),
                "build it of texts that have it, or with the specials",
            )  # fmt: skip
        return found

    def _numbers(self, text: str) -> list[int]:
        return [self[t] for t in _split(text, self.level)]

    def decode(self, ids: Any) -> str:
        """The text of numbers, without padding; words are joined by blanks."""
        found = [self.tokens[i] for i in _plain(ids) if i != self.pad_id or PAD not in self._of]
        return ("" if self.level == "char" else " ").join(found)

    def save(self, path: Any) -> None:
        """Write it as JSON."""
        write_bytes("Vocabulary", path, json.dumps({"level": self.level, "tokens": self.tokens}).encode())  # fmt: skip

    @classmethod
    def load(cls, path: Any) -> Vocabulary:
        """Read what `save` wrote."""
        try:
            content = json.loads(read_bytes("Vocabulary", path))
            return cls(content["tokens"], content["level"])
        except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError):
            raise KilnValueError("Vocabulary", "not a vocabulary's file", str(path), "") from None


def _checked(level: str) -> str:
    if level not in _LEVELS:
        raise KilnValueError("Vocabulary", "no such level", repr(level), f"one of {_LEVELS}")
    return level


def _split(text: str, level: str) -> Iterable[str]:
    return text if level == "char" else _WORDS.findall(text)


class Tokenizer(Encoder):
    """Subwords: a tokenizer of the package `tokenizers`, read from a file or learnt from texts.

    >>> subwords = Tokenizer.train(texts, size=8000)          # byte-pair encoding; kind="wordpiece", "unigram"
    >>> subwords = Tokenizer.load("tokenizer.json")           # a published one
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        found = next((i for t in (PAD, "[PAD]") if (i := inner.token_to_id(t)) is not None), None)
        self.pad_id = 0 if found is None else found

    @classmethod
    def load(cls, path: Any) -> Tokenizer:
        """The tokenizer of a file `tokenizer.json`."""
        package = need("tokenizers", "text", "Tokenizer")
        return cls(package.Tokenizer.from_str(read_bytes("Tokenizer", path).decode()))

    @classmethod
    def train(
        cls, texts: Iterable[str], size: int = 8000, kind: str = "bpe", specials: Sequence[str] = (PAD, UNKNOWN)
    ) -> Tokenizer:  # fmt: skip
        """Learn at most `size` subwords of bytes ("bpe"), or of words ("wordpiece"), or of a unigram model ("unigram")."""
        p = need("tokenizers", "text", "Tokenizer")
        made = {
            "bpe": (lambda: p.models.BPE(), p.trainers.BpeTrainer, {}),
            "wordpiece": (lambda: p.models.WordPiece(unk_token=UNKNOWN), p.trainers.WordPieceTrainer, {}),
            "unigram": (lambda: p.models.Unigram(), p.trainers.UnigramTrainer, {"unk_token": UNKNOWN}),
        }  # fmt: skip
        if kind not in made:
            raise KilnValueError(
                "Tokenizer", "no such kind", describe(kind), f"one of {tuple(made)}"
            )
        model, trainer, more = made[kind]
        inner = p.Tokenizer(model())
        if kind == "bpe":
            inner.pre_tokenizer = p.pre_tokenizers.ByteLevel(add_prefix_space=False)
            inner.decoder = p.decoders.ByteLevel()
            more = {"initial_alphabet": p.pre_tokenizers.ByteLevel.alphabet()}
        elif kind == "wordpiece":
            inner.pre_tokenizer = p.pre_tokenizers.BertPreTokenizer()
            inner.decoder = p.decoders.WordPiece()
        else:
            inner.pre_tokenizer = p.pre_tokenizers.Metaspace()
            inner.decoder = p.decoders.Metaspace()
        learns = trainer(
            vocab_size=size, special_tokens=list(specials), show_progress=False, **more
        )
        inner.train_from_iterator(texts, learns)
        return cls(inner)

    def __len__(self) -> int:
        return self.inner.get_vocab_size()

    def _numbers(self, text: str) -> list[int]:
        return self.inner.encode(text).ids

    def decode(self, ids: Any) -> str:
        """The text of numbers, without padding and other special tokens."""
        return self.inner.decode(_plain(ids))

    def save(self, path: Any) -> None:
        """Write it as the package does, for any program that reads `tokenizer.json`."""
        write_bytes("Tokenizer", path, self.inner.to_str().encode())


__all__ = ["Tokenizer", "Vocabulary"]
