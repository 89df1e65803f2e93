"""What every CPU kernel generator returns."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Kernel:
    """One generated kernel: ``void @symbol(ptr args, i64 task, i64 place)`` as LLVM IR text.

    ``args`` is a table of buffer addresses; when ``workspace_bytes`` is not 0 one more entry follows
    them, the address of that much scratch memory (64-byte aligned, contents don't matter). The call
    must be made once for each task in ``range(ntasks)``, in any order and on any threads; ``ntasks``
    depends on shapes only, so results do not depend on the number of threads. ``place`` is a number below
    ``ntasks`` that tasks which run at the same time don't share: what one keeps to itself in scratch memory
    lies there, where the thread's last task had it. A kernel that needs
    more than one parallel phase goes on in ``then``, to be launched with the same ``args`` once all
    tasks of this one have finished; ``workspace_bytes`` is the same along the chain.

    A contraction's first phase with ``prepared_bytes`` does nothing but fill so many bytes at the beginning
    of the workspace from its second operand. It may be launched by itself, long before, as the others of
    its chain read what it left in place of that operand.
    """

    text: str
    symbol: str
    ntasks: int = 1
    workspace_bytes: int = 0
    then: Kernel | None = None
    prepared_bytes: int = 0

    def phases(self) -> list[Kernel]:
        """This kernel and the ones that must follow it, in order."""
        chain, kernel = [], self
        while kernel is not None:
            chain.append(kernel)
            kernel = kernel.then
        return chain


def prepared(first: Kernel, size: int, kernel: Kernel) -> Kernel:
    """A kernel after a phase that fills so many bytes for it, see `Kernel`."""
    return chain(replace(first, prepared_bytes=size), kernel)


def chain(*kernels: Kernel | None) -> Kernel:
    """One kernel of the phases of several, in order; None is left out."""
    phases = [phase for kernel in kernels if kernel is not None for phase in kernel.phases()]
    room, then = max(phase.workspace_bytes for phase in phases), None
    for phase in reversed(phases):
        then = replace(phase, workspace_bytes=room, then=then)
    assert then is not None
    return then
