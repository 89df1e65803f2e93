"""The CPU backend: Graphs to native programs, with kernels generated as LLVM IR."""

from .program import compile as compile
