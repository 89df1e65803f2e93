"""PyTorch's operator database against Kiln: `python -m tests.conformance.database`.

PyTorch describes its operators for its own tests: some 700 entries (`op_db`) that draw inputs in every
dtype, name other forms of the operator and list calls that must fail. Every call is made in PyTorch and in
Kiln here.

`entries` says what the database holds, under which names, and what is left out and why; `crossing` takes
arguments, and the Python functions of entries, from PyTorch to Kiln; `checks` makes the calls and compares
values, dtypes, gradients and errors; `workers` runs entries in processes with bounds on time and memory;
`table` counts, and writes `docs/coverage.md`. A selection is part of the suite (`test_database.py`).
"""
