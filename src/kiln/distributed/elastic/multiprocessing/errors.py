"""What a process reports that fails. Source: torch.distributed.elastic.multiprocessing.errors."""

from __future__ import annotations

import functools
import json
import os
import time
import traceback
from collections.abc import Callable
from typing import Any


def record(fn: Callable, error_handler: Any = None) -> Callable:
    """A program's main function, whose error is also written to the file that TORCHELASTIC_ERROR_FILE names."""

    @functools.wraps(fn)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return fn(*args, **kwargs)
        except Exception as e:
            path = os.environ.get("TORCHELASTIC_ERROR_FILE")
            if path:
                told = {"callstack": traceback.format_exc(), "timestamp": str(int(time.time()))}
                message = {"message": f"{type(e).__name__}: {e}", "extraInfo": {"py_": told}}
                with open(path, "w") as f:
                    json.dump({"message": message}, f)
            raise

    return run


__all__ = ["record"]
