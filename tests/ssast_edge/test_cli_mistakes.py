"""What `ssast-edge` once left unsaid: options without effect, a Ctrl-C before it listens."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ssast_edge.cli import main

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 30


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["listen", "--input-rate", "8000"], "--input-rate is of raw PCM: give it with --input -"),
        (["listen", "--input", "x.wav", "--input-channels", "2"], "--input-channels is of raw PCM"),
        (["tag", "--audacity", "--threshold", "nan", "x.wav"], "between 0 and 1, got nan"),
    ],
)
def test_what_would_have_no_effect_is_refused_in_one_line(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert len(result.output.splitlines()) == 1
    assert said in result.output


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_before_it_listens_still_sums_up(tone_folder: Path, as_json: bool) -> None:
    # Opening the microphone takes for ever: the driver is one that sleeps.
    code = (
        "import sys, time, types\n"
        "def query_devices():\n"
        "    print('opening', file=sys.stderr, flush=True)\n"
        "    time.sleep(60)\n"
        "sys.modules['sounddevice'] = types.SimpleNamespace(\n"
        "    default=types.SimpleNamespace(device=(0, 0)), query_devices=query_devices)\n"
        "from ssast_edge.cli import main\n"
        "main()\n"
    )
    # A shell that starts tests in the background makes them, and what they start, ignore SIGINT.
    command = ["env", "--default-signal=INT", sys.executable, "-c", code]
    command += ["listen", "--bundle", str(tone_folder)]
    with subprocess.Popen(
        [*command, *(["--json"] if as_json else [])],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "opening\n"
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, stderr) == (0, "")
    if as_json:
        summary = json.loads(stdout)
        assert (summary["type"], summary["audio_s"], summary["detections"]) == ("summary", 0, 0)
    else:
        assert stdout.startswith("0 detections in 00:00.00 of audio")


def test_the_version_of_a_checkout_is_no_traceback() -> None:
    code = (
        "from importlib import metadata\n"
        "def absent(name): raise metadata.PackageNotFoundError(name)\n"
        "metadata.version = absent\n"
        "from ssast_edge.cli import main\n"
        "main(prog_name='ssast-edge')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=os.environ,
    )
    shown = "ssast-edge (a checkout that is not installed)\n"
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, shown, "")
