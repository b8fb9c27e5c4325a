"""Synthetic speech for training: keywords, near misses, words and sentences in many voices.

    python -m train.synthesize --out runs/synthetic

Speaks with eSpeak NG, Flite and Festival (Debian: espeak-ng flite festival festvox-kallpc16k
festvox-us-slt-hts). Writes 16 kHz FLAC clips cut to the speech, manifest.csv last. Deterministic
for a seed. A clip's name tells what it says and in whose voice, so the command resumes: clips that
are there are kept.
"""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import click
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from tqdm import tqdm

from train.noises import write_noises
from train.recipe import RecipeError
from train.utterances import VOCABULARIES, Utterance, plan

__all__ = ["missing_engines", "speak", "synthesize"]

SAMPLE_RATE = 16000
_BATCH = 16  # clips of one call of Festival, which starts slowly

Samples = NDArray[np.float32]


def missing_engines() -> list[str]:
    """The programs that are not installed."""
    return [name for name in ("espeak-ng", "flite", "festival") if shutil.which(name) is None]


def speak(utterance: Utterance) -> Samples:
    """The samples of one utterance, 16 kHz mono, silence at both ends cut away."""
    return next(_speak_batch([utterance]))


def synthesize(
    out: Path, utterances: Sequence[Utterance], jobs: int, *, noises: int = 0, seed: int = 0
) -> None:
    """Make every clip and so many noises that are not there yet, then the manifest of all."""
    if missing := missing_engines():
        raise RecipeError(
            f"{', '.join(missing)} not installed: apt install espeak-ng flite festival "
            "festvox-kallpc16k festvox-us-slt-hts"
        )
    made_noises = write_noises(out, noises, seed=seed)
    for kind in {utterance.kind for utterance in utterances}:
        (out / kind).mkdir(parents=True, exist_ok=True)
    lacking = [u for u in utterances if not (out / u.file_name).exists()]
    lacking.sort(key=lambda u: u.engine)
    batches = [lacking[i : i + _BATCH] for i in range(0, len(lacking), _BATCH)]
    there = len(utterances) - len(lacking)
    progress = tqdm(total=len(utterances), initial=there, desc="speech", unit="clip")
    with progress, ThreadPoolExecutor(jobs) as pool:
        for done in as_completed([pool.submit(_make, out, batch) for batch in batches]):
            progress.update(done.result())
    partial = out / ".manifest.csv.tmp"
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "text", "keyword", "kind", "engine", "voice", "speaker", "split"])
        for u in utterances:
            writer.writerow(
                [u.file_name, u.text, u.keyword, u.kind, u.engine, u.voice, u.speaker, u.split]
            )
        for name in made_noises:
            writer.writerow([name, "noise", "", "noise", "rule", "", "", "train"])
    partial.rename(out / "manifest.csv")


def _make(out: Path, batch: Sequence[Utterance]) -> int:
    for utterance, samples in zip(batch, _speak_batch(batch), strict=True):
        path = out / utterance.file_name
        partial = path.with_name(f".{path.name}.tmp")
        soundfile.write(partial, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        partial.rename(path)
    return len(batch)


def _speak_batch(batch: Sequence[Utterance]) -> Iterator[Samples]:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.wav" for i in range(len(batch))]
        script = Path(folder) / "festival.scm"
        lines = []
        for path, utterance in zip(paths, batch, strict=True):
            if utterance.engine == "festival":
                lines += _festival_lines(utterance, path)
            else:
                command = {"espeak-ng": _espeak, "flite": _flite}[utterance.engine](utterance, path)
                subprocess.run(command, check=True, capture_output=True, timeout=60)
        if lines:
            script.write_text("\n".join(lines), encoding="utf-8")
            command = ["festival", "--batch", str(script)]
            subprocess.run(command, check=True, capture_output=True, timeout=300)
        for path, utterance in zip(paths, batch, strict=True):
            if not path.is_file():
                raise RecipeError(f"{utterance.engine} has no voice {utterance.voice!r}")
            samples, rate = soundfile.read(path, dtype="float32")
            if utterance.engine == "festival":
                rate *= 2 ** (utterance.pitch / 24)
            if rate != SAMPLE_RATE:
                samples = soxr.resample(samples, rate, SAMPLE_RATE)
            yield _trimmed(np.asarray(samples, dtype=np.float32))


def _espeak(utterance: Utterance, path: Path) -> list[str]:
    command = ["espeak-ng", "-v", utterance.voice, "-s", str(int(utterance.speed))]
    return [*command, "-p", str(utterance.pitch), "-w", str(path), "--", utterance.text]


def _flite(utterance: Utterance, path: Path) -> list[str]:
    command = ["flite", "-voice", utterance.voice, "-t", utterance.text, "-o", str(path)]
    command += ["--setf", f"duration_stretch={utterance.speed:.2f}"]
    return [*command, "--setf", f"int_f0_target_mean={utterance.pitch}"]


def _festival_lines(utterance: Utterance, path: Path) -> list[str]:
    """Scheme; choosing the voice anew also puts its settings back."""
    if re.search(r"[^a-z' ]", utterance.text):
        raise RecipeError(f"only a-z, ' and spaces for Festival, got {utterance.text!r}")
    lines = [f"(voice_{utterance.voice})"]
    if utterance.voice.endswith("_hts"):
        settings = f'(("-r" {1 / utterance.speed:.2f}))'
        lines.append(f"(set! hts_engine_params (append hts_engine_params '{settings}))")
    else:
        lines.append(f"(Parameter.set 'Duration_Stretch {utterance.speed:.2f})")
    wave = f'(utt.synth (Utterance Text "{utterance.text}"))'
    return [*lines, f'(utt.save.wave {wave} "{path}" \'riff)']


def _trimmed(samples: Samples) -> Samples:
    """Cut to 5 ms frames above 2 % of the peak."""
    frames = np.abs(samples[: len(samples) // 80 * 80]).reshape(-1, 80).max(axis=1)
    loud = np.flatnonzero(frames > 0.02 * max(frames.max(initial=0.0), 1e-6))
    if not len(loud):
        raise RecipeError("a voice gave nothing but silence")
    return samples[loud[0] * 80 : (loud[-1] + 1) * 80]


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--per-keyword", default=160, show_default=True, help="Renderings of each keyword.")
@click.option("--near-misses", default=2500, show_default=True)
@click.option("--sentences", default=1500, show_default=True)
@click.option("--words", default=400, show_default=True)
@click.option("--noises", default=400, show_default=True, help="Noises made by rule.")
@click.option(
    "--vocabulary",
    type=click.Choice(list(VOCABULARIES)),
    default="wake_words",
    show_default=True,
    help="What the keywords are.",
)
@click.option("--jobs", default=2, show_default=True)
def main(
    out: Path,
    seed: int,
    per_keyword: int,
    near_misses: int,
    sentences: int,
    words: int,
    noises: int,
    vocabulary: str,
    jobs: int,
) -> None:
    """Write synthetic training speech and noise."""
    try:
        utterances = plan(
            seed,
            per_keyword=per_keyword,
            near_misses=near_misses,
            sentences=sentences,
            words=words,
            vocabulary=VOCABULARIES[vocabulary],
        )
        synthesize(out, utterances, jobs, noises=noises, seed=seed)
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        reason = said or f"status {error.returncode}"
        raise click.ClickException(f"{error.cmd[0]}: {reason}") from error
    except (RecipeError, OSError, subprocess.TimeoutExpired) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main(prog_name="python -m train.synthesize")
