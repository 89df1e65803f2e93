"""The committed type stubs are those that the registry gives."""

import subprocess
import sys


def test_stubs_are_up_to_date():
    # a process of its own: functions that ask who answers for them (`kiln.overrides`) are written otherwise
    run = [sys.executable, "-m", "kiln.ops.stubs", "--check"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
