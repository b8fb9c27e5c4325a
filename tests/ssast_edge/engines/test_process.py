"""Whatever TensorRT does to the process that it runs in, the caller gets one line."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ssast_edge.engines.manifest import EngineError
from ssast_edge.engines.process import run_build
from ssast_edge.engines.worker import BuildRequest
from ssast_edge.manifest import from_json


def a_request(folder: Path) -> dict[str, Any]:
    return {"model": "m.onnx", "engine": str(folder / "engine")}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os.abort()", r"was ended by SIGABRT; its last words: terminate called"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "as happens when memory runs"),
        ("import sys; sys.exit(3)", "ended with status 3"),
        ("pass", "ended with status 0"),
        ("raise ValueError('a bug')", "ValueError: a bug"),
    ],
)
def test_whatever_becomes_of_the_process_is_one_line(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = (
        "import json, os, sys\n"
        "print('terminate called after throwing', file=sys.stderr, flush=True)\n"
        "pipe = os.fdopen(int(sys.argv[2]), 'w')\n"
        "pipe.write(json.dumps({'type': 'log', 'severity': 'info', 'text': 'hello'}) + '\\n')\n"
        "pipe.write('{cut off'); pipe.flush()\n"
    )
    (tmp_path / "dying_worker.py").write_text(said + code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("ssast_edge.engines.process.WORKER", "dying_worker")
    seen: list[dict[str, Any]] = []
    with pytest.raises(EngineError, match="the TensorRT process") as caught:
        run_build(a_request(tmp_path), tmp_path, seen.append)
    if "SIGABRT" in message:
        assert "was ended by SIGABRT; its last words: hello | terminate called" in str(caught.value)
    else:
        assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [line["text"] for line in seen] == ["hello"]


def test_the_request_round_trips_as_json() -> None:
    request = BuildRequest(
        model="m", engine="e", precision="fp16", frames=1, bins=2, labels=3, batch=(1, 2, 3)
    )
    assert from_json(json.loads(json.dumps(asdict(request))), BuildRequest) == request
