"""Why an op takes more than twice PyTorch's time, beside its ratio in the table of `benchmarks.ops`."""

from __future__ import annotations

import re

_REASONS = {
    r"addmv": "a product and a sum, a call each",
    r"(linalg\.)?slogdet": "the gradient of the sign, which is zero: PyTorch computes nothing",
    r"fft\.|stft|istft": "NumPy's pocketfft on one thread; PyTorch calls MKL",
    r"linalg\.solve_triangular|triangular_solve": "a general solver: NumPy has no triangular one",
    r"linalg\.|pinverse|logdet|slogdet|det$|lu|cholesky": (
        "LAPACK through NumPy; threads of its OpenBLAS wait by spinning, which a busy machine makes long"
    ),
    r"conj$|isreal|resolve_|real$|imag$": "PyTorch only sets a flag or gives a view",
    r"trace": "two calls of Python's, which take longer than the sum",
    r"rsqrt": "its gradient raises to a power, by the general function",
    r"to ": "the gradient is cast, and then copied to be one of its own",
    r"add_ alpha|relu_": "computed apart, then copied into its memory",
    r"addc|frac|diff|cosine_sim|glu|.*rrelu|lerp|addr|renorm|.*normalize|.*loss|.*pairwise|dist|trapez|.*entropy|.*shrink|copysign|rad2deg|vander": (
        "written in several ops, a pass each; PyTorch has one"
    ),
    r"kron|outer|eye|block_diag|cartesian|meshgrid|tril_ind|triu_ind": (
        "small operands and a large result: NumPy's broadcast in one thread"
    ),
    r"cummax|cummin": "NumPy's accumulate, then a search for the places",
    r"median|kthvalue|topk|mode|nanmedian": "sorts or partitions keys with their places; PyTorch selects",
    r"index_fill|index_put|put|masked_scatter|masked_select|nonzero|.*embedding_bag|take|where one": (
        "NumPy's fancy indexing in one thread"
    ),
    r"scatter_reduce|histc|bincount|.*one_hot|unique": "NumPy's unbuffered reduction or count",
    r"_dirichlet_grad|_standard_gamma|nextafter|.*grid_sample|.*multilabel_margin|.*pdist|.*ctc|.*fold|.*unfold": (
        "the reference in NumPy: no kernel yet"
    ),
    r".*max_pool|.*max_unpool": "each input looks through its windows; PyTorch scatters by the places it kept",
    r"linspace|logspace|fill|full|zeros|ones|arange|.*pad|roll|rot90|flip|tile|.*pixel|.*shuffle": (
        "one pass of NumPy's, in fresh memory"
    ),
    r"rand|multinomial|normal|bernoulli|poisson": (
        "two words of a counter-based stream an element, and a 64-bit remainder without bias"
    ),
    r"sgn|angle|sign|ceil|floor|round|trunc": "its gradient's zeros are written; PyTorch maps zeroed pages",
    r".* bf16": "moved one by one by NumPy, which doesn't know the dtype",
}
_VIEW = (
    "a view: microseconds of Python whatever the size; backward copies into a gradient of its own what "
    "PyTorch lets share memory"
)
_VIEWS = (
    r"adjoint|as_strided|atleast|chunk|diag|[dhv]split|split|tensor_split|flatten|ravel|unflatten|movedim|moveaxis|narrow|"
    r"select$|swap|t$|transpose|permute|unbind|squeeze|unsqueeze|view|expand|mT|[dhv]stack|cat|concat|stack|column_stack|row_stack|"
    r"nn\.functional\.(feature_)?(alpha_)?dropout|squeeze|unfold$|detach|alias|broadcast|positive|slice"
)


def reason(name: str) -> str:
    """What is known of a call of that name; empty where nothing is."""
    short = name.removeprefix("nn.functional.")
    for pattern, text in _REASONS.items():
        if re.match(pattern, name) or re.match(pattern, short):
            return text
    return _VIEW if re.match(_VIEWS, name) or re.match(_VIEWS, short) else ""
