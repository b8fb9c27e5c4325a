"""Memory and start of one case, in a process of its own: `python -m ssast_edge.bench.probe`.

In one process the models of a grid would share the interpreter and each other's leftovers.
"""

import json
import subprocess
import sys
import time
from typing import Any

from ssast_edge.bench.plan import Case

_TIMEOUT_S = 300
_INFERENCES = 5
_RUNS = 3


def probe(case: Case, *, runs: int = _RUNS) -> dict[str, Any]:
    """The median start and the greatest memory of some processes; {"reason": ...} when it fails.

    start_s: from the start of the process to the end of its first inference. resident_mb: after
    some inferences. peak_mb: the most since it was started.
    """
    results = []
    for _ in range(runs):
        command = [sys.executable, "-m", "ssast_edge.bench.probe", str(case.bundle.path)]
        command += [case.backend, case.precision, str(case.threads), repr(time.monotonic())]
        try:
            ran = subprocess.run(
                command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
            )
            results.append(json.loads(ran.stdout))
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            return {"reason": f"the process that measures memory failed: {error}"}
    starts = sorted(result["start_s"] for result in results)
    return {
        "start_s": starts[len(starts) // 2],
        "resident_mb": _largest(results, "resident_mb"),
        "peak_mb": _largest(results, "peak_mb"),
    }


def _largest(results: list[dict[str, Any]], key: str) -> float | None:
    return max((result[key] for result in results if result[key] is not None), default=None)


def _main(path: str, backend: str, precision: str, threads: str, began_s: str) -> None:
    from ssast_edge.backends import open_backend
    from ssast_edge.bench.sampler import memory_mb
    from ssast_edge.bundle import load_bundle

    bundle = load_bundle(path)
    model = open_backend(bundle, kind=backend, precision=precision, threads=int(threads))
    model.infer(bundle.golden.fbank)
    start_s = time.monotonic() - float(began_s)
    for _ in range(_INFERENCES):
        model.infer(bundle.golden.fbank)
    result = {
        "start_s": start_s,
        "resident_mb": memory_mb("VmRSS"),
        "peak_mb": memory_mb("VmHWM"),
    }
    sys.stdout.write(json.dumps(result))
    model.close()


if __name__ == "__main__":
    _main(*sys.argv[1:])
