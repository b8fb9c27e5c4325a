"""Runs the functions named check_* of a program, each on its own; what became of them."""

import ctypes
import json
import traceback
from collections.abc import Callable, Mapping
from typing import Any


def run(names: Mapping[str, Any], setup: Callable[[], Any]) -> None:
    """JSON on stdout: check -> "" or why it failed. What `setup` gives is closed after each."""
    results = {}
    for name, check in names.items():
        if not name.startswith("check_"):
            continue
        subject = setup()
        try:
            check(subject)
            results[name] = ""
        except Exception:
            results[name] = traceback.format_exc()
        finally:
            fail("", 0)
            subject.close()
    print(json.dumps(results))


def stand_in() -> Any:
    """The stand-in driver, None on a machine's own driver."""
    library = ctypes.CDLL(None)
    return library if hasattr(library, "stand_in_fail") else None


def fail(function: str, code: int, after: int = 0) -> None:
    """Let a driver function fail from its next call on; "" lets all succeed."""
    library = stand_in()
    if library is not None:
        library.stand_in_fail(function.encode(), code, after)


def count(function: str) -> int:
    """How often a driver function was called."""
    stand_in().stand_in_count.restype = ctypes.c_long
    return int(stand_in().stand_in_count(function.encode()))


def raises(kind: type[BaseException], call: Callable[[], object]) -> str:
    """The message of the error that `call` must raise."""
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"{kind.__name__} was not raised")
