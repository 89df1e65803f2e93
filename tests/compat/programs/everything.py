"""Runs all programs of this folder, one after the other."""

import pathlib
import runpy
import sys

import data

for name in sys.argv[1:]:
    data.RNG.seed(0)
    runpy.run_path(str(pathlib.Path(__file__).parent / f"{name}.py"), run_name="__main__")
    sys.stdout.flush()
