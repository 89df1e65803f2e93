"""Random programs, compiled and eager: `python -m tests.fuzz --count 20000`.

`programs` writes a program from a seed, of the steps in `steps` and `layers`; `checks` says what must
agree; `__main__` runs many, in processes that may die. A selection is part of the suite
(`tests/compile/test_fuzz.py`).
"""
