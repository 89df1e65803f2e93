"""LLVM IR text to machine code in this process: compile, keep on disk, load, look up.

One MCJIT engine holds every object of the process: an engine costs ten times an object.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from kiln.backends.cpu import cache
from kiln.backends.cpu.isa import Isa
from kiln.errors import KilnError
from kiln.recording import COMPILE, block
from kiln.runtime.forks import never_within

_lock = threading.RLock()
never_within(_lock)  # LLVM, and its binding, have locks and state of their own
_engine: Any = None
_loaded: set[str] = set()


def compile_objects(modules: Sequence[str], isa: Isa) -> list[bytes]:
    """Compile every module's LLVM IR text into one object file each, in the order given, on all cores.

    No IR pass runs: the generators write what they want to see, and passes were measured to
    triple the latency without making kernels faster. Raises KilnError with LLVM's complaint.
    """
    made: dict[int, bytes | BaseException] = {}
    # Long ones first, so that no thread begins one where the others have finished.
    waiting = iter(sorted(range(len(modules)), key=lambda i: -len(modules[i])))

    def work(number: int) -> None:
        machine = _target_machine(isa, number)
        for i in waiting:
            try:
                made[i] = _object(modules[i], isa, machine)
            except BaseException as exc:
                made[i] = exc
                return

    with _lock:
        others = [
            threading.Thread(target=work, args=(k,), name="kiln-compile", daemon=True)
            for k in range(1, min(_cores(), len(modules)))
        ]
        for t in others:
            t.start()
        work(0)
        for t in others:
            t.join()
        cache.stats.compiles += len(made)
    for x in made.values():
        if isinstance(x, BaseException):
            raise x
    return [made[i] for i in range(len(modules))]  # type: ignore[misc]


def _object(text: str, isa: Isa, machine: Any) -> bytes:
    """The object file of one module; any thread may make one, on a target machine of its own."""
    import llvmlite.binding as llvm

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
    return _emit(machine, module)


def _emit(machine: Any, module: Any) -> bytes:
    """Machine code of a parsed module: most of the time that compiling takes.

    Not by llvmlite's own method: it holds a lock that is there for what threads share, and code
    generation for a module and a target machine that are this thread's alone shares nothing.
    """
    from llvmlite.binding import ffi

    complaint = ctypes.c_char_p()
    buffer = _code_generator()(machine, module, 1, ctypes.byref(complaint))
    if not buffer:
        raise RuntimeError((complaint.value or b"LLVM gave no object").decode())
    try:
        start, size = ffi.lib.LLVMPY_GetBufferStart(buffer), ffi.lib.LLVMPY_GetBufferSize(buffer)
        return ctypes.string_at(start, size)
    finally:
        ffi.lib.LLVMPY_DisposeMemoryBuffer(buffer)


@functools.cache
def _code_generator() -> Any:
    """llvmlite's entrance to code generation as a plain foreign function."""
    from llvmlite.binding import ffi

    locked = ffi.lib.LLVMPY_TargetMachineEmitToMemory
    free = ctypes.CDLL(ffi.lib._name).LLVMPY_TargetMachineEmitToMemory
    free.argtypes, free.restype = locked.argtypes, locked.restype
    return free


def assembly(text: str, isa: Isa) -> str:
    """The assembly text of one module, for KILN_DEBUG=6 and for counting register spills."""
    import llvmlite.binding as llvm

    with _lock:
        machine = _target_machine(isa, 0)
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
    provide(modules, isa)
    return symbol_address


def provide(modules: Sequence[str], isa: Isa) -> list[str]:
    """`build`, which gives the modules' keys in the disk cache."""
    keys = [cache.make_key(text, isa.key) for text in modules]
    texts = dict(zip(keys, modules, strict=True))

    def compiled(missing: list[str]) -> list[bytes]:
        with block("compiling kernels (LLVM)", COMPILE):
            objects = compile_objects([texts[key] for key in missing], isa)
        for key, data in zip(missing, objects, strict=True):
            cache.put(key, data)
        return objects

    _load_all(texts, compiled)
    return keys


def load_stored(keys: Sequence[str]) -> bool:
    """Load modules by their keys (`cache.make_key`) in the disk cache; False, and nothing done, where one is missing."""
    return _load_all(keys, None)


def _load_all(keys: Iterable[str], compiled: Callable[[list[str]], list[bytes]] | None) -> bool:
    """Load what is not loaded yet: from the disk cache, or as `compiled` makes it; False where nothing does."""
    with _lock:
        store = cache.default_cache()
        found = {key: store.get(key) for key in keys if key not in _loaded}
        missing = [key for key, data in found.items() if data is None]
        if missing and compiled is None:
            return False
        objects = [data for data in found.values() if data is not None]
        if missing:
            assert compiled is not None
            objects += compiled(missing)
        if objects:
            load(objects)
            _loaded.update(found)
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
def _target_machine(isa: Isa, thread: int) -> Any:
    """A machine for the thread of that number: code generation changes it."""
    import llvmlite.binding as llvm

    _initialize()
    # opt=1: opt=0 aborts the process on AVX-512 masks (FastISel), 2 and 3 gain nothing.
    return llvm.Target.from_triple(isa.triple).create_target_machine(
        cpu=isa.cpu, features=isa.features, opt=1, reloc="default", codemodel="jitdefault", jit=True
    )


def _cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def _initialize() -> None:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    if llvm.get_process_triple().startswith("x86") and "numba" not in sys.modules:
        # A quarter of the time of code generation, for addresses that kernels step along already: 26 of them,
        # from products to sorts, are as fast without. It holds for all of the process's LLVM.
        llvm.set_option("kiln", "-disable-lsr")
