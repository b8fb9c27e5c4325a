"""Runs a build in a process of its own: TensorRT can end the process that it runs in.

The request goes in as a JSON file, messages come back as JSON lines over a pipe. Whatever becomes
of the process, the caller gets the result or an EngineError of one line.
"""

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from ssast_edge.engines.manifest import EngineError
from ssast_edge.engines.tensorrt_library import library_environment
from ssast_edge.errors import one_line

WORKER = "ssast_edge.engines.worker"
_LAST_LINES = 3  # of what TensorRT said before it died
_LINE_CHARACTERS = 300


def run_build(
    request: Mapping[str, Any], folder: Path, on_message: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """What the worker found out; the engine then lies where the request says.

    folder: for files that only this build needs. on_message: called with everything else that
    the worker says. Raises EngineError, also when the process dies.
    """
    asked = folder / "request.json"
    asked.write_text(json.dumps(request), encoding="utf-8")
    result: dict[str, Any] | None = None
    failure = ""
    last: deque[str] = deque(maxlen=_LAST_LINES)
    with library_environment() as environment, (folder / "output").open("w+b") as output:
        reading, writing = os.pipe()
        with os.fdopen(reading, encoding="utf-8", errors="replace") as messages:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-m", WORKER, str(asked), str(writing)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=[writing],
                    env=dict(environment),
                    cwd=folder,  # Python looks there first: not for what lies about elsewhere
                    start_new_session=True,  # Ctrl-C is for this process, which ends the other
                )
            finally:
                os.close(writing)
            try:
                for message in _decoded(messages):
                    if message["type"] == "done":
                        result = message
                    elif message["type"] == "error":
                        failure = str(message["message"])
                    else:
                        if message["type"] == "log":
                            last.append(str(message["text"]))
                        on_message(message)
                status = process.wait()
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        if failure:
            raise EngineError(failure)
        if status != 0 or result is None:
            raise EngineError(_death(status, last, output))
        return result


def _decoded(lines: IO[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            message = json.loads(line)
        except ValueError:  # the process died within the line
            continue
        if isinstance(message, dict) and "type" in message:
            yield message


def _death(status: int, last: deque[str], output: IO[bytes]) -> str:
    """Why the process ended, as far as can be told from outside."""
    if status < 0:
        how = f"was ended by {_signal_name(-status)}"
        if -status == signal.SIGKILL:
            how += ", as happens when memory runs out"
    else:
        how = f"ended with status {status}"
    output.seek(0)
    printed = output.read().decode("utf-8", "replace").strip().splitlines()
    said = [*last, *printed[-_LAST_LINES:]]
    shown = " | ".join(one_line(line)[:_LINE_CHARACTERS] for line in said) or "nothing"
    return f"the TensorRT process {how}; its last words: {shown}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of the many real-time signals
        return f"signal {number}"
