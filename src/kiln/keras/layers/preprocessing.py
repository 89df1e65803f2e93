"""Numbers, categories and texts as models take them; `adapt(data)` learns what is to be known of the data.

https://keras.io/api/layers/preprocessing_layers/
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ...dtypes import float32, int64
from ...errors import KilnError, KilnTypeError, KilnValueError, describe
from ...ops.creation import arange, as_tensor
from ...ops.sorting import bucketize
from ...tensor import Tensor
from ..layer import Layer


class Rescaling(Layer):
    """x * scale + offset."""

    supports_masking = True

    def __init__(self, scale: Any, offset: Any = 0.0, **common: Any) -> None:
        super().__init__(**common)
        self.scale, self.offset = scale, offset

    def call(self, inputs: Tensor) -> Tensor:
        return inputs.to(float32) * as_tensor(self.scale, float32) + as_tensor(self.offset, float32)


def _batches(data: Any, batch_size: int | None = None) -> Iterable[np.ndarray]:
    """The inputs in arrays, or in batches of a loader."""
    if isinstance(data, Tensor | np.ndarray) or (isinstance(data, list | tuple) and not isinstance(data[0], Tensor)):  # fmt: skip
        yield np.asarray(data)
        return
    for batch in data:
        yield np.asarray(batch[0] if isinstance(batch, list | tuple) else batch)


class Normalization(Layer):
    """(x - mean) / √variance for each place of `axis`, as given or as `adapt(data)` finds them; `invert` undoes it."""

    def __init__(
        self, axis: Any = -1, mean: Any = None, variance: Any = None, invert: bool = False, **common: Any
    ) -> None:  # fmt: skip
        super().__init__(**common)
        if (mean is None) != (variance is None):
            raise KilnValueError("Normalization", "mean and variance go together", describe((mean, variance)), "give both, or adapt(data)")  # fmt: skip
        self.axis = () if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
        self.invert, self._given_values = invert, (mean, variance)

    def build(self, input_shape: Any) -> None:
        self._kept = sorted(a % len(input_shape) for a in self.axis)
        shape = [input_shape[a] for a in self._kept]
        self._wide = [n if a in self._kept else 1 for a, n in enumerate(input_shape)]
        mean, variance = self._given_values
        if mean is None:
            self.adapt_mean = self.add_weight(shape, "zeros", trainable=False, name="mean")
            self.adapt_variance = self.add_weight(shape, "ones", trainable=False, name="variance")
            self.count = self.add_weight((), "zeros", "int32", False, name="count")
        else:
            for name, value in (("adapt_mean", mean), ("adapt_variance", variance)):
                value = np.broadcast_to(np.asarray(value, np.float32), shape)
                self.register_buffer(name, as_tensor(value.copy()), False)

    def adapt(self, data: Any) -> None:
        """Find mean and variance of data: arrays, or batches of a loader."""
        total: Any = 0.0
        square: Any = 0.0
        n = 0
        for x in _batches(data):
            if not self.built:
                self.build((None, *x.shape[1:]))
                self.__dict__["built"] = True
            x = x.astype(np.float64)
            dims = tuple(a for a in range(x.ndim) if a not in self._kept)
            total, square = total + x.sum(dims), square + (x * x).sum(dims)
            n += x.size // max(int(np.prod([x.shape[a] for a in self._kept])), 1)
        mean = total / n
        self.adapt_mean.assign(mean)
        self.adapt_variance.assign(square / n - mean * mean)
        self.count.assign(n)

    def call(self, inputs: Tensor) -> Tensor:
        mean, variance = (t.reshape([1 if n is None else n for n in self._wide]) for t in (self.adapt_mean, self.adapt_variance))  # fmt: skip
        size = variance.sqrt().clamp(min=1e-7)
        x = inputs.to(mean.dtype)
        return mean + x * size if self.invert else (x - mean) / size

    def get_build_config(self) -> dict[str, Any] | None:
        return {"input_shape": (None, *self._wide[1:])} if self.built else None


def _encoded(numbers: Tensor, n: int, mode: str, weights: Any = None) -> Tensor:
    """Category numbers as "one_hot", "multi_hot" or "count" rows of n."""
    hot = (numbers.to(int64).unsqueeze(-1) == arange(n)).to(float32)
    if mode == "one_hot":
        return hot.squeeze(-2) if numbers.ndim > 1 and numbers.shape[-1] == 1 else hot
    if weights is not None:
        hot = hot * as_tensor(weights).to(float32).unsqueeze(-1)
    return hot.amax(-2) if mode == "multi_hot" else hot.sum(-2)


class CategoryEncoding(Layer):
    """Category numbers below `num_tokens` as "multi_hot", "one_hot" or "count" rows."""

    def __init__(self, num_tokens: int, output_mode: str = "multi_hot", sparse: bool = False, **common: Any) -> None:  # fmt: skip
        super().__init__(**common)
        self.num_tokens, self.output_mode = num_tokens, output_mode

    def call(self, inputs: Tensor, count_weights: Any = None) -> Tensor:
        return _encoded(inputs, self.num_tokens, self.output_mode, count_weights)


class Discretization(Layer):
    """The number of the bin between `bin_boundaries` (or `num_bins` of as many samples each, which `adapt` finds) that x lies in."""

    def __init__(
        self, bin_boundaries: Any = None, num_bins: int | None = None, epsilon: float = 0.01, output_mode: str = "int", **common: Any
    ) -> None:  # fmt: skip
        super().__init__(**common)
        if (bin_boundaries is None) == (num_bins is None):
            raise KilnValueError("Discretization", "either boundaries or their number", describe((bin_boundaries, num_bins)), "one of bin_boundaries and num_bins")  # fmt: skip
        self.num_bins, self.output_mode, self.epsilon = num_bins, output_mode, epsilon
        self.__dict__["bin_boundaries"] = None if bin_boundaries is None else sorted(bin_boundaries)

    def adapt(self, data: Any) -> None:
        """Find boundaries that part the data evenly."""
        assert self.num_bins is not None
        x = np.concatenate([b.ravel() for b in _batches(data)])
        cuts = np.quantile(x, np.linspace(0, 1, self.num_bins + 1)[1:-1])
        self.__dict__["bin_boundaries"] = [float(c) for c in cuts]

    def call(self, inputs: Tensor) -> Tensor:
        if self.bin_boundaries is None:
            raise KilnError(self.name, "there are no boundaries yet", "num_bins alone", "layer.adapt(data)")  # fmt: skip
        found = bucketize(inputs.to(float32), as_tensor(self.bin_boundaries, float32), right=True)
        return found if self.output_mode == "int" else _encoded(found, len(self.bin_boundaries) + 1, self.output_mode)  # fmt: skip


class _Lookup(Layer):
    """Values of a vocabulary as numbers, on the host: texts are lists or arrays of str, and no tensors."""

    kind: type = str

    def __init__(
        self, max_tokens: int | None = None, num_oov_indices: int = 1, mask_token: Any = None, oov_token: Any = "[UNK]", vocabulary: Any = None,
        invert: bool = False, output_mode: str = "int", pad_to_max_tokens: bool = False, **common: Any,
    ) -> None:  # fmt: skip
        super().__init__(**common)
        self.max_tokens, self.num_oov_indices, self.mask_token, self.oov_token = max_tokens, num_oov_indices, mask_token, oov_token  # fmt: skip
        self.invert, self.output_mode, self.pad_to_max_tokens = invert, output_mode, pad_to_max_tokens  # fmt: skip
        self.__dict__["_words"] = []
        if vocabulary is not None:
            self.set_vocabulary(vocabulary)

    def _first(self) -> list[Any]:
        mask = [] if self.mask_token is None or self.output_mode != "int" else [self.mask_token]
        return mask + [self.oov_token] * self.num_oov_indices

    def get_vocabulary(self, include_special_tokens: bool = True) -> list[Any]:
        """The values by number."""
        return (self._first() if include_special_tokens else []) + list(self._words)

    def vocabulary_size(self) -> int:
        """How many there are."""
        return len(self.get_vocabulary())

    def set_vocabulary(self, vocabulary: Any, idf_weights: Any = None) -> None:
        """Take a vocabulary over: values, or a text file of one on each line; what stands for the mask and the unknown may lead it."""
        if isinstance(vocabulary, str):
            with open(vocabulary, encoding="utf-8") as f:
                vocabulary = f.read().splitlines()
        words = [self.kind(w) for w in vocabulary]
        first = self._first()
        if words[: len(first)] == first:
            words = words[len(first) :]
        if len(set(words)) != len(words):
            twice = [w for w, n in Counter(words).items() if n > 1]
            raise KilnValueError(
                self.name, "a value is there twice", describe(twice[:5]), "each once"
            )
        self.__dict__["_words"] = words
        self.__dict__["_numbers"] = {w: i + len(first) for i, w in enumerate(words)}
        if idf_weights is not None:
            self.__dict__["_idf"] = np.asarray(idf_weights, np.float32)

    def _plain(self, x: Any) -> np.ndarray:
        return np.asarray(x.detach() if isinstance(x, Tensor) else x)

    def adapt(self, data: Any) -> None:
        """Learn the vocabulary: the values by how often they come, at most `max_tokens` with what leads it."""
        counts: Counter[Any] = Counter()
        documents: Counter[Any] = Counter()
        n = 0
        for batch in _batches(data):
            for row in batch if batch.ndim > 1 else batch[:, None]:
                values = [self.kind(v) for v in np.ravel(row)]
                counts.update(values)
                documents.update(set(values))
                n += 1
        for special in (self.mask_token, self.oov_token):
            counts.pop(special, None)
        order = sorted(counts, key=lambda w: (counts[w], w), reverse=True)
        if self.max_tokens is not None:
            order = order[: self.max_tokens - len(self._first())]
        self.set_vocabulary(order)
        if self.output_mode == "tf_idf":
            idf = [np.log(1 + n / (1 + documents[w])) for w in order]
            self.__dict__["_idf"] = np.array([np.mean(idf)] * self.num_oov_indices + idf, np.float32)  # fmt: skip

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return self.call(inputs)

    def call(self, inputs: Any) -> Any:  # type: ignore[override]
        words = self.get_vocabulary()
        x = self._plain(inputs)
        if self.invert:
            return np.array([words[i] if 0 <= i < len(words) else self.oov_token for i in x.ravel()], object if self.kind is str else np.int64).reshape(x.shape)  # fmt: skip
        first = len(self._first())
        lead = first - self.num_oov_indices

        def number(v: Any) -> int:
            v = self.kind(v)
            if lead and v == self.mask_token:
                return 0
            found = self.__dict__.get("_numbers", {}).get(v)
            if found is not None:
                return found
            if not self.num_oov_indices:
                raise KilnValueError(self.name, "the vocabulary does not have this value", repr(v), "num_oov_indices=1")  # fmt: skip
            return lead + (_hash(v) % self.num_oov_indices if self.num_oov_indices > 1 else 0)

        numbers = as_tensor(np.array([number(v) for v in x.ravel()], np.int64).reshape(x.shape))
        if self.output_mode == "int":
            return numbers
        n = self.max_tokens if self.pad_to_max_tokens and self.max_tokens else len(words)
        if self.output_mode == "tf_idf":
            idf = as_tensor(np.pad(self._idf, (0, n - len(self._idf))))
            return _encoded(numbers, n, "count") * idf
        return _encoded(numbers, n, self.output_mode)


def _hash(v: Any) -> int:
    """A number that is the same in every process."""
    import zlib

    return zlib.crc32(str(v).encode())


class StringLookup(_Lookup):
    """Texts as numbers by a vocabulary: 0 (behind a mask's) for what it does not have. Called with lists or arrays of str, outside of models."""


class IntegerLookup(_Lookup):
    """Whole numbers as numbers by a vocabulary."""

    kind = int

    def __init__(
        self, max_tokens: int | None = None, num_oov_indices: int = 1, mask_token: int | None = None, oov_token: int = -1, **options: Any
    ) -> None:  # fmt: skip
        super().__init__(max_tokens, num_oov_indices, mask_token, oov_token, **options)


class Hashing(Layer):
    """Texts or numbers as numbers below `num_bins` by a hash (CRC-32, where Keras has another one). Called outside of models."""

    def __init__(self, num_bins: int, mask_value: Any = None, output_mode: str = "int", **common: Any) -> None:  # fmt: skip
        super().__init__(**common)
        self.num_bins, self.mask_value, self.output_mode = num_bins, mask_value, output_mode

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        x = np.asarray(inputs.detach() if isinstance(inputs, Tensor) else inputs)
        lead = 0 if self.mask_value is None else 1
        found = [0 if lead and v == self.mask_value else lead + _hash(v) % (self.num_bins - lead) for v in x.ravel()]  # fmt: skip
        numbers = as_tensor(np.array(found, np.int64).reshape(x.shape))
        return numbers if self.output_mode == "int" else _encoded(numbers, self.num_bins, self.output_mode)  # fmt: skip


_STRIP = str.maketrans("", "", string.punctuation)


class TextVectorization(_Lookup):
    """Texts as rows of word numbers ("int", 0 fills and 1 is the unknown), or as "multi_hot", "count" or "tf_idf" rows.

    Called with a list or array of str: in the data's pipeline, and not inside a model, whose tensors hold no texts.
    """

    def __init__(
        self, max_tokens: int | None = None, standardize: Any = "lower_and_strip_punctuation", split: Any = "whitespace", ngrams: Any = None,
        output_mode: str = "int", output_sequence_length: int | None = None, pad_to_max_tokens: bool = False, vocabulary: Any = None,
        **common: Any,
    ) -> None:  # fmt: skip
        self._standardize: str | Callable | None
        super().__init__(max_tokens, 1, "", "[UNK]", None, False, output_mode, pad_to_max_tokens, **common)  # fmt: skip
        self._standardize, self._split, self.ngrams = standardize, split, ngrams
        self.output_sequence_length = output_sequence_length
        if vocabulary is not None:
            self.set_vocabulary(vocabulary)

    def words(self, text: Any) -> list[str]:
        """The tokens of a text."""
        text = str(text)
        how = self._standardize
        if callable(how):
            text = str(how(text))
        elif how is not None:
            text = text.lower() if "lower" in how else text
            text = text.translate(_STRIP) if "strip" in how else text
        if callable(self._split):
            tokens: Any = self._split(text)
            tokens = list(tokens)
        else:
            tokens = text.split() if self._split == "whitespace" else list(text) if self._split == "character" else [text]  # fmt: skip
        if self.ngrams is None:
            return tokens
        sizes: Sequence[int] = range(1, self.ngrams + 1) if isinstance(self.ngrams, int) else self.ngrams  # fmt: skip
        return [" ".join(tokens[i : i + n]) for n in sizes for i in range(len(tokens) - n + 1)]

    def _texts(self, data: Any) -> list[str]:
        if isinstance(data, str):
            return [data]
        if isinstance(data, Tensor):
            raise KilnTypeError(self.name, "a tensor holds no texts", describe(data), "pass a list or array of str")  # fmt: skip
        return [str(t) for t in np.ravel(np.asarray(data, object))]

    def adapt(self, data: Any) -> None:
        """Learn the vocabulary of texts, or of batches of them."""
        many = data if isinstance(data, str | np.ndarray) or (isinstance(data, list | tuple) and isinstance(data[0], str)) else [t for b in data for t in self._texts(b)]  # fmt: skip
        rows = [self.words(t) for t in self._texts(many)]
        longest = max(map(len, rows), default=0)
        table = np.full((len(rows), longest), self.mask_token, object)
        for i, row in enumerate(rows):
            table[i, : len(row)] = row
        super().adapt(table)

    def call(self, inputs: Any) -> Any:
        alone = isinstance(inputs, str)
        rows = [self.words(t) for t in self._texts(inputs)]
        n = max(map(len, rows), default=0) if self.output_sequence_length is None or self.output_mode != "int" else self.output_sequence_length  # fmt: skip
        fill = self.mask_token if self.output_mode == "int" else None
        if fill is None:
            out = [super(TextVectorization, self).call(np.array(r or [""], object)) for r in rows]
            found = as_tensor(np.stack([np.asarray(o) for o in out]))
        else:
            table = np.full((len(rows), n), fill, object)
            for i, row in enumerate(rows):
                table[i, : len(row[:n])] = row[:n]
            found = super().call(table)
        return found[0] if alone else found


__all__ = [
    "CategoryEncoding", "Discretization", "Hashing", "IntegerLookup", "Normalization", "Rescaling", "StringLookup", "TextVectorization",
]  # fmt: skip
