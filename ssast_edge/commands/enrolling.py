"""What `enroll` does: recordings to a word in a bundle, and what is said of it."""

import wave
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from ssast_edge.audio import read_audio
from ssast_edge.backends import open_backend
from ssast_edge.bundle import MANIFEST, Bundle, is_shipped, load_bundle, same_label
from ssast_edge.doctor.level import measure
from ssast_edge.enrollment.addition import add_word, remove_word
from ssast_edge.enrollment.background import read_background
from ssast_edge.enrollment.classifier import LearnedWord
from ssast_edge.enrollment.enroll import (
    FEWEST,
    MOST,
    check_different,
    check_learned,
    check_name,
    check_number,
    find_outlier,
    find_similar,
    hear,
    learn,
)
from ssast_edge.enrollment.errors import EnrollmentError
from ssast_edge.enrollment.recordings import Spoken, find_word
from ssast_edge.errors import BundleError

Samples = NDArray[np.float32]

TAKE_S = 2.0  # of one recording
SETTLE_S = 0.3  # cards click and swing in when they start


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the word is to be."""

    name: str
    false_accepts_per_hour: float
    is_forced: bool


def target(bundle: Bundle, out: Path | None) -> Path:
    """Where the bundle goes. Raises EnrollmentError for one that came with the package."""
    if out is not None:
        return out
    if is_shipped(bundle):
        raise EnrollmentError(
            f"bundle {bundle.name} belongs to the installed package, which an update replaces: "
            "give --out DIR, and --bundle DIR when you listen"
        )
    return bundle.path


def check_kept(bundle: Bundle, out: Path, name: str) -> None:
    """Raise EnrollmentError where `out` is another bundle with words that would be gone."""
    if not (out / MANIFEST).is_file() or out.resolve() == bundle.path.resolve():
        return
    kept = [name, *(one.word.label for one in bundle.enrolled)]
    try:
        words = [one.word.label for one in load_bundle(out).enrolled]
    except BundleError:
        return  # nothing that could be heard
    lost = [word for word in words if not any(same_label(word, other) for other in kept)]
    if lost:
        raise EnrollmentError(
            f"{out} holds {', '.join(lost)}, learned before, which would be gone: add to it with "
            f"--bundle {out}, give another --out, or --force"
        )


def remove_name(bundle: Bundle, out: Path, name: str) -> None:
    """Take a word out and say so."""
    made = remove_word(bundle, out, name)
    left = [one.word.label for one in made.enrolled]
    (gone,) = (one.word.label for one in bundle.enrolled if one.word.label not in left)
    click.echo(f"{out}: {gone} is gone; enrolled words: {', '.join(left) or 'none'}")


def recorded(
    bundle: Bundle, name: str, count: int, device: str | None, keep: Path | None
) -> list[Spoken]:
    """Ask for the word `count` times. A take that cannot be learned from is asked for again."""
    check_number(count)
    check_name(name, bundle)
    read_background(bundle)  # what cannot be taught is told before anything is said
    takes: list[Spoken] = []
    attempts = 0
    while len(takes) < count:
        attempts += 1
        if attempts > 3 * count:
            raise EnrollmentError(f"{attempts - 1} takes and only {len(takes)} that can be used")
        click.echo(f"{len(takes) + 1} of {count}: say {name!r} now ... ", nl=False, err=True)
        samples = _take(bundle.fbank.sample_rate, device)
        level = measure(samples)
        try:
            take = find_word(f"take {len(takes) + 1}", samples, bundle)
        except EnrollmentError as error:
            click.echo(f"again: {error}", err=True)
            continue
        length_s = take.end_s - take.start_s
        click.echo(f"{length_s:.2f} s, peak {level.peak_dbfs:.0f} dBFS", err=True)
        takes.append(take)
        if keep is not None:
            _write(keep / f"{len(takes)}.wav", samples, bundle.fbank.sample_rate)
    return takes


def enroll_word(
    bundle: Bundle,
    out: Path,
    wishes: Wishes,
    recordings: Sequence[Path] | Sequence[Spoken],
    how: Mapping[str, Any],
) -> None:
    """Learn the word and write the bundle. Raises SsastEdgeError and leaves `out` as it was."""
    label = check_name(wishes.name, bundle)
    check_number(len(recordings))
    before = next((one.word for one in bundle.enrolled if one.word.label == label), None)
    if before is not None and len(recordings) < before.clips and not wishes.is_forced:
        raise EnrollmentError(
            f"{label!r} is enrolled from {before.clips} recordings, these are {len(recordings)}: "
            "give more, or --force"
        )
    background = read_background(bundle)
    rate = bundle.fbank.sample_rate
    clips = [
        one if isinstance(one, Spoken) else find_word(str(one), read_audio(one, rate), bundle)
        for one in recordings
    ]
    check_different(clips)
    with _opened(bundle, how) as backend:
        heard = hear(clips, bundle, background, backend)
    alike = find_similar(bundle, heard, label)
    if alike is not None and not wishes.is_forced:
        raise EnrollmentError(
            f"{label!r} sounds like {alike!r}, which fires at half or more of these recordings: "
            "choose another word, or --force"
        )
    learned = learn(
        background,
        heard,
        false_accepts_per_hour=wishes.false_accepts_per_hour,
        hop_ms=bundle.hop_ms,
    )
    odd = find_outlier(heard, learned)
    if odd is not None and not wishes.is_forced:
        raise EnrollmentError(
            f"{odd} sounds unlike the other {len(clips) - 1} recordings: leave it out, record it "
            "again, or --force"
        )
    check_learned(heard, learned)
    add_word(
        bundle,
        out,
        label,
        learned,
        clips=len(clips),
        false_accepts_per_hour=wishes.false_accepts_per_hour,
    )
    if before is not None:
        click.echo(f"replaces the one from {before.clips} recordings", err=True)
    _tell(label, out, learned, wishes, [clip.name for clip in clips])


def _tell(
    label: str, out: Path, learned: LearnedWord, wishes: Wishes, clips: Sequence[str]
) -> None:
    low, high = learned.range_per_hour
    scores = 1 / (1 + np.exp(-learned.clip_scores))
    count = len(scores)
    heard = int((learned.clip_scores >= 0).sum())
    click.echo(f"{out}: {label} from {count} recordings")
    click.echo(
        f"{heard} of {count} are heard when the word is learned from the others "
        f"(scores {', '.join(f'{score:.2f}' for score in scores)}; it fires at 0.5)"
    )
    click.echo(
        f"aimed at {wishes.false_accepts_per_hour:g} false accepts an hour of speech; an "
        f"extrapolation from an hour or two ({low:.2g} to {high:.2g}), and your room is another: "
        f"ssast-edge calibrate {out} --out DIR --hours H measures it"
    )
    unheard = [
        f"{clip} ({score:.2f})" for clip, score in zip(clips, scores, strict=True) if score < 0.5
    ]
    if unheard:
        click.echo(f"not heard: {', '.join(unheard)}", err=True)
    if count < MOST and (heard < count or count < FEWEST + 2):
        click.echo("more recordings, of more people or places, make it surer", err=True)


@contextmanager
def _opened(bundle: Bundle, how: Mapping[str, Any]) -> Iterator[Any]:
    backend = open_backend(bundle, embeds=True, **how)
    try:
        yield backend
    finally:
        backend.close()


def _take(rate: int, device: str | None) -> Samples:
    """TAKE_S of the microphone, after what it needs to settle."""
    from ssast_edge.microphone import Microphone

    chosen = int(device) if device and device.isdecimal() else device
    pieces: list[Samples] = []
    wanted = round((SETTLE_S + TAKE_S) * rate)
    with Microphone(chosen, sample_rate=rate) as microphone:
        for block in microphone:
            pieces.append(block.samples)
            if sum(map(len, pieces)) >= wanted:
                break
    return np.concatenate(pieces)[round(SETTLE_S * rate) : wanted]


def _write(path: Path, samples: Samples, rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.tmp")
    with wave.open(str(partial), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
    partial.replace(path)
