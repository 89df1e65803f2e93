"""What tensors can do: the op registry and one file per family."""

from . import (  # noqa: F401
    activation,
    addmm,
    arithmetic,
    assembling,
    attention,
    batch_norm,
    binary_loss,
    casting,
    classification,
    comparison,
    complex,
    control,
    convnd,
    convolution,
    creation,
    ctc,
    densities,
    distances,
    division,
    drawing,
    dropout,
    einsum,
    elementary,
    embedding,
    equations,
    extremes,
    factorize,
    facts,
    fft,
    former,
    grids,
    histograms,
    implicit,
    indexing,
    joining,
    layouts,
    legacy,
    linalg,
    linear,
    lobpcg,
    loss,
    low_rank,
    lu,
    masks,
    matrix,
    matrix_functions,
    matrix_norms,
    multi_head,
    normalization,
    orthogonal,
    placing,
    pooling,
    powers,
    precision,
    quantiles,
    quantized,
    random,
    recurrent,
    reduction,
    resampling,
    reshaping,
    sampling,
    scan,
    scatter,
    segments,
    selection,
    signal,
    slicing,
    smooth,
    softmax,
    sorting,
    special,
    spectra,
    statistics,
    strided,
    transcendental,
    views,
    windows,
)


def __getattr__(name: str) -> object:
    """The ops that a program has defined in a namespace (`kiln.library.custom_op`); `aten`, which few ask for."""
    from ..library import DEFINED, namespace

    if name == "aten":
        from importlib import import_module

        return import_module(f"{__name__}.aten")
    if name not in DEFINED:
        raise AttributeError(f"module 'kiln.ops' has no attribute {name!r}")
    return namespace(name)


precision.install()


def import_all() -> None:
    """Import the modules of ops that are otherwise imported when first used, so that the registry is whole."""
    import importlib
    import pkgutil

    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    importlib.import_module("kiln.nn.functional")
    precision.install()
