"""Tensors between processes: their memory goes along as an open file, not as a copy.

https://docs.pytorch.org/docs/stable/multiprocessing.html
"""

from __future__ import annotations

import os
import weakref
from multiprocessing import reduction
from multiprocessing.context import get_spawning_popen
from typing import Any

import numpy as np

from ..dtypes import known
from ..errors import KilnError, describe
from ..nn.parameter import Buffer, Parameter
from ..runtime.shared import CAN_SHARE, Segment, shared_copy
from ..sharing import root_of
from ..storage import UntypedStorage
from ..tensor import Tensor, _address, wrap

_known: weakref.WeakValueDictionary[tuple[int, int], Segment] = weakref.WeakValueDictionary()
"""The shared memory of this process by its file: what comes twice, or comes back, is mapped once."""


def reduce_tensor(tensor: Tensor) -> tuple:
    """How a tensor is pickled for another process: it moves to shared memory (`share_memory_`).

    Raises RuntimeError for one with history.
    """
    if tensor.requires_grad and not tensor.is_leaf:
        raise KilnError(
            "multiprocessing", "a tensor with history can't be sent to another process: gradients don't cross "
            "processes", describe(tensor), "send x.detach()",
        )  # fmt: skip
    if not CAN_SHARE:
        return tensor.__reduce_ex__(5)
    a = tensor.share_memory_()._host("multiprocessing")
    segment: Segment = root_of(a)
    offset = _address(a) - segment.address
    how = a.dtype, a.shape, a.strides, tensor.requires_grad, type(tensor), dict(tensor.__dict__)
    return rebuild_tensor, (_reduced(segment), offset, *how)


def rebuild_tensor(
    memory: tuple, offset: int, dtype: Any, shape: Any, strides: Any, rg: bool, cls: type, extra: dict
) -> Tensor:  # fmt: skip
    """A tensor on the memory that came with it."""
    t = wrap(known(np.ndarray(shape, dtype, np.asarray(_rebuilt(*memory)), offset, strides)))
    t.__class__ = cls
    t._rg = rg
    t.__dict__.update(extra)
    return t


def reduce_storage(storage: UntypedStorage) -> tuple:
    """How a storage is pickled for another process: it moves to shared memory."""
    storage._bytes = shared_copy(storage._bytes)
    segment: Segment = root_of(storage._bytes)
    return rebuild_storage, (
        _reduced(segment),
        _address(storage._bytes) - segment.address,
        storage.nbytes(),
    )


def rebuild_storage(memory: tuple, offset: int, nbytes: int) -> UntypedStorage:
    """A storage on the memory that came with it."""
    return UntypedStorage(np.asarray(_rebuilt(*memory))[offset : offset + nbytes])


def init_reductions() -> None:
    """Have `multiprocessing` send tensors in this way."""
    for cls in (Tensor, Parameter, Buffer):
        reduction.ForkingPickler.register(cls, reduce_tensor)
    if CAN_SHARE:
        reduction.ForkingPickler.register(UntypedStorage, reduce_storage)


def _reduced(segment: Segment) -> tuple:
    _known[_identity(segment.fd)] = segment
    starting = get_spawning_popen()
    if starting is None:
        return reduction.DupFd(segment.fd), segment.nbytes
    given = vars(starting).setdefault("_kiln_files", {})  # a file goes to a new process but once
    if segment.fd not in given:
        given[segment.fd] = reduction.DupFd(segment.fd)
    return given[segment.fd], segment.nbytes


def _rebuilt(file: Any, nbytes: int) -> Segment:
    fd = file.detach()
    known = _known.get(_identity(fd))
    if known is not None:
        if known.fd != fd:
            os.close(fd)
        return known
    segment = _known[_identity(fd)] = Segment(nbytes, fd)
    return segment


def _identity(fd: int) -> tuple[int, int]:
    facts = os.fstat(fd)
    return facts.st_dev, facts.st_ino
