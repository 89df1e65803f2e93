"""LLVM IR text to machine code in this process: compile, keep on disk, load, look up.

One MCJIT engine holds every object of the process: an engine costs ten times an object.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from kiln.backends.cpu import cache
from kiln.backends.cpu.isa import Isa
from kiln.errors import KilnError

_lock = threading.RLock()
_engine: Any = None
_loaded: set[str] = set()


def compile_objects(modules: Sequence[str], isa: Isa) -> list[bytes]:
    """Compile every module's LLVM IR text into one object file each, in the order given.

    No IR pass runs: the generators write what they want to see, and passes were measured to
    triple the latency without making kernels faster. Raises KilnError with LLVM's complaint.
    """
    import llvmlite.binding as llvm

    machine = _target_machine(isa)
    objects = []
    for text in modules:
        with _lock:
            try:
                # A context of its own, so that types and constants are freed with the module.
                module = llvm.parse_assembly(text, context=llvm.create_context())
                module.triple = isa.triple
                module.data_layout = str(machine.target_data)
                module.verify()
            except RuntimeError as exc:
                raise KilnError(
                    "jit",
                    f"generated LLVM IR was rejected: {str(exc).strip()}",
                    f"a module of {len(text)} characters for {isa.name} ({isa.cpu})",
                    "this is a bug in a Kiln kernel generator; please report it",
                ) from exc
            objects.append(machine.emit_object(module))
            cache.stats.compiles += 1
    return objects


def assembly(text: str, isa: Isa) -> str:
    """The assembly text of one module, for KILN_DEBUG=6 and for counting register spills."""
    import llvmlite.binding as llvm

    machine = _target_machine(isa)
    module = llvm.parse_assembly(text, context=llvm.create_context())
    module.data_layout = str(machine.target_data)
    return machine.emit_assembly(module)


def load(objects: Sequence[bytes]) -> Callable[[str], int]:
    """Link object files into the process; returns a function from symbol to address.

    Symbols must be unique in the process (over instruction sets too), so their names should hold a
    hash of what they were generated from.
    """
    import llvmlite.binding as llvm

    with _lock:
        engine = _the_engine()
        for data in objects:
            engine.add_object_file(llvm.ObjectFileRef.from_data(data))
        engine.finalize_object()
    return symbol_address


def symbol_address(symbol: str) -> int:
    """Address of a loaded symbol; raises KilnError when nothing defines it."""
    with _lock:
        address = _the_engine().get_function_address(symbol)
    if not address:
        raise KilnError(
            "jit",
            f"symbol {symbol!r} is not loaded",
            "a look-up in the JIT's symbol table",
            "pass the module that defines it to kiln.backends.cpu.jit.build first",
        )
    return address


def build(modules: Sequence[str], isa: Isa) -> Callable[[str], int]:
    """Compile through the disk cache and load; a module built before in this process is free.

    Returns the function from symbol to address.
    """
    texts = {cache.make_key(text, isa.key): text for text in modules}

    def compiled(key: str) -> bytes:
        (data,) = compile_objects([texts[key]], isa)
        cache.put(key, data)
        return data

    _provide(texts, compiled)
    return symbol_address


def load_stored(keys: Sequence[str]) -> bool:
    """Load modules by their keys (`cache.make_key`) in the disk cache; False, and nothing done, where one is missing."""
    return _provide(keys, lambda _: None)


def _provide(keys: Iterable[str], otherwise: Callable[[str], bytes | None]) -> bool:
    """Load what is not loaded yet: from the disk cache, or as `otherwise` makes it; False where that gives None."""
    with _lock:
        store = cache.default_cache()
        fresh: dict[str, bytes] = {}
        for key in keys:
            if key in _loaded or key in fresh:
                continue
            data = store.get(key)
            data = otherwise(key) if data is None else data
            if data is None:
                return False
            fresh[key] = data
        if fresh:
            load(list(fresh.values()))
            _loaded.update(fresh)
        return True


def _the_engine() -> Any:
    global _engine
    if _engine is None:
        import llvmlite.binding as llvm

        from kiln.backends.cpu.isa import make_isa

        _initialize()
        empty = llvm.parse_assembly("", context=llvm.create_context())
        target = llvm.Target.from_triple(make_isa().triple)
        _engine = llvm.create_mcjit_compiler(empty, target.create_target_machine(opt=1, jit=True))
    return _engine


@functools.cache
def _target_machine(isa: Isa) -> Any:
    import llvmlite.binding as llvm

    _initialize()
    # opt=1: opt=0 aborts the process on AVX-512 masks (FastISel), 2 and 3 gain nothing.
    return llvm.Target.from_triple(isa.triple).create_target_machine(
        cpu=isa.cpu, features=isa.features, opt=1, reloc="default", codemodel="jitdefault", jit=True
    )


@functools.cache
def _initialize() -> None:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
