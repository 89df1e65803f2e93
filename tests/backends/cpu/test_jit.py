"""LLVM IR text to callable machine code, at every instruction set of this host."""

from __future__ import annotations

import ctypes

import pytest
from harness import levels

from kiln.backends.cpu import jit
from kiln.backends.cpu.isa import host_isa, make_isa
from kiln.config import context
from kiln.errors import KilnError

ADD = "define i64 @test_jit_add_{n}(i64 %x) {{ %y = add i64 %x, {n}\n ret i64 %y }}\n"
Unary = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)


def test_many_objects_on_one_engine_resolve():
    objects = jit.compile_objects([ADD.format(n=n) for n in range(100, 130)], host_isa())
    assert len(objects) == 30
    assert all(isinstance(o, bytes) for o in objects)
    lookup = jit.load(objects)
    for n in range(100, 130):
        assert Unary(lookup(f"test_jit_add_{n}"))(5) == n + 5


def test_objects_are_the_same_from_any_number_of_threads(monkeypatch):
    texts = ["".join(ADD.format(n=n * 100 + k) for k in range(1 + n % 7)) for n in range(500, 560)]
    monkeypatch.setattr(jit, "_cores", lambda: 1)
    alone = jit.compile_objects(texts, host_isa())
    monkeypatch.setattr(jit, "_cores", lambda: 4)
    assert jit.compile_objects(texts, host_isa()) == alone


def test_a_rejected_module_among_many_is_a_kiln_error():
    texts = [ADD.format(n=n) for n in range(600, 620)]
    with pytest.raises(KilnError, match="rejected"):
        jit.compile_objects([*texts[:9], "define void @f( {", *texts[9:]], host_isa())
    assert len(jit.compile_objects(texts, host_isa())) == 20


def test_objects_may_call_each_other_across_loads():
    isa = host_isa()
    jit.build([ADD.format(n=200)], isa)
    text = (
        "declare i64 @test_jit_add_200(i64)\n"
        "define i64 @test_jit_twice(i64 %x) {\n"
        "%y = call i64 @test_jit_add_200(i64 %x)\n"
        "%z = call i64 @test_jit_add_200(i64 %y)\nret i64 %z }\n"
    )
    assert Unary(jit.build([text], isa)("test_jit_twice"))(1) == 401


def test_build_of_the_same_module_again_keeps_the_address():
    first = jit.build([ADD.format(n=300)], host_isa())("test_jit_add_300")
    assert jit.build([ADD.format(n=300)], host_isa())("test_jit_add_300") == first


@pytest.mark.parametrize("text", ["define void @f( {", "define i64 @f() { ret i32 0 }"])
def test_rejected_ir_is_a_kiln_error(text):
    with pytest.raises(KilnError, match="rejected"):
        jit.compile_objects([text], host_isa())


def test_unknown_symbol_is_a_kiln_error():
    with pytest.raises(KilnError, match="test_jit_nowhere"):
        jit.symbol_address("test_jit_nowhere")


def test_every_level_compiles_and_can_be_forced():
    for isa in levels():
        (data,) = jit.compile_objects([ADD.format(n=1)], isa)
        assert len(data) > 100
        with context(cpu_isa=isa.name):
            assert host_isa() is make_isa(isa.name)


def test_unknown_level_is_a_kiln_error():
    with context(cpu_isa="mmx"), pytest.raises(KilnError, match="choose one of"):
        host_isa()


def test_vector_width_of_forced_levels():
    if host_isa().name == "neon":
        pytest.skip("x86 levels")
    for isa in levels():
        lanes = isa.lanes(4)
        text = (
            f"define void @w(ptr %p) {{ %v = load <{lanes} x float>, ptr %p, align 4\n"
            f"%w = fadd <{lanes} x float> %v, %v\n"
            f"store <{lanes} x float> %w, ptr %p, align 4\nret void }}\n"
        )
        register = {64: "zmm0", 32: "ymm0", 16: "xmm0"}[isa.vector_bytes]
        assert register in jit.assembly(text, isa)
