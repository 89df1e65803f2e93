"""The CPU backend: LLVM IR text generated from Python, compiled in process."""
