"""Learns a word from recordings by a bundle's own encoder, and refuses what cannot be learned from.

Opens no file and writes none. Clips are recordings of the word, R numbers describe one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssast_edge.backends import Backend
from ssast_edge.bundle import Bundle, same_label
from ssast_edge.bundle.enrolled import EnrolledScores
from ssast_edge.enrollment.background import Background
from ssast_edge.enrollment.classifier import CONFIDENT, LearnedWord, learn_word
from ssast_edge.enrollment.discriminant import Recorded
from ssast_edge.enrollment.errors import EnrollmentError
from ssast_edge.enrollment.recordings import Spoken, in_noise, in_room, rows_in, word_windows
from ssast_edge.enrollment.stretches import parts_of
from ssast_edge.evaluation.clips import SILENCE_LABEL, UNKNOWN_LABEL
from ssast_edge.spotter import to_scores

__all__ = [
    "FEWEST",
    "MOST",
    "Heard",
    "check_different",
    "check_learned",
    "check_name",
    "check_number",
    "find_outlier",
    "find_similar",
    "hear",
    "learn",
]

FloatArray = NDArray[np.float32]

FEWEST, MOST = 3, 10  # recordings
LONGEST_NAME = 64
APART = "/\\;"
# One recording is unlike the others where, learned from those, it lies as far below the threshold
# as three quarters of what the median lies above it, and half of them are heard.
UNLIKE = -0.75 * CONFIDENT


@dataclass(frozen=True, eq=False)
class Heard:
    """What the model gives for a recording."""

    name: str
    recorded: Recorded
    length: float  # of the word, in rows of the embedding
    scores: FloatArray  # (labels,) the highest of each label of the bundle in the recording itself


def check_name(name: str, bundle: Bundle) -> str:
    """The label to enroll under. Raises EnrollmentError for one that the model has already."""
    label = " ".join(name.split())
    if not 0 < len(label) <= LONGEST_NAME or not label.isprintable():
        raise EnrollmentError(
            f"a name must be printable text of up to {LONGEST_NAME} characters, got {name[:80]!r}"
        )
    if label in (UNKNOWN_LABEL, SILENCE_LABEL):
        raise EnrollmentError(f"{label} stands for what is no keyword: give another name")
    if set(label) & set(APART):
        # Evaluation names folders and files by labels, and separates labels by a semicolon.
        raise EnrollmentError(f"a name holds none of {' '.join(APART)}, got {name!r}")
    if not any(letter.isalnum() for letter in label):
        raise EnrollmentError(f"a name holds a letter or a digit at least, got {name!r}")
    for known in bundle.model_labels:
        if same_label(known, label):
            raise EnrollmentError(
                f"{known!r} is a label of bundle {bundle.name} itself: give another name"
            )
    for one in bundle.enrolled:
        if same_label(one.word.label, label):
            return one.word.label
    return label


def check_number(count: int) -> None:
    """Raise EnrollmentError unless there are 3 to 10 recordings."""
    if count < FEWEST:
        raise EnrollmentError(f"{count} recordings are too few: give {FEWEST} to {MOST}")
    if count > MOST:
        raise EnrollmentError(f"{count} recordings are too many: give {FEWEST} to {MOST}")


def check_different(clips: Sequence[Spoken]) -> None:
    """Raise EnrollmentError where one recording is given twice: it would vouch for itself."""
    for index, clip in enumerate(clips):
        for other in clips[:index]:
            if np.array_equal(clip.samples, other.samples):
                raise EnrollmentError(
                    f"{clip.name} is the same recording as {other.name}: give each once"
                    if clip.name != other.name
                    else f"{clip.name} is given twice"
                )


def hear(
    clips: Sequence[Spoken],
    bundle: Bundle,
    background: Background,
    backend: Backend,
    *,
    with_noise: bool = True,
    progress: Callable[[], object] | None = None,
) -> list[Heard]:
    """Run every recording through the model; `progress` is called after each.

    backend: the bundle's, opened with `embeds`.
    """
    found = []
    known = EnrolledScores(bundle.enrolled) if bundle.enrolled else None
    rate = bundle.fbank.sample_rate
    for number, clip in enumerate(clips):
        plain = in_room(clip, bundle, number)
        forms = [plain, *(in_noise(plain, rate, number) if with_noise else ())]
        parts, windows, is_noisy, scores = [], [], [], np.zeros(len(bundle.labels))
        for index, form in enumerate(forms):
            for window in word_windows(form, bundle, seed=1000 * number + index):
                logits, embedding = backend.infer_both(np.ascontiguousarray(window))
                rows = background.project(embedding[np.newaxis])
                windows.append(rows[0])
                parts.append(parts_of(rows, rows_in(form, bundle, len(embedding)))[0])
                is_noisy.append(index > 0)
                if index == 0:
                    now = to_scores(logits, bundle.activation)
                    if known is not None:
                        words = to_scores(known.logits(embedding), "sigmoid")
                        now = np.concatenate([now, words])
                    scores = np.maximum(scores, now)
        length = rows_in(clip, bundle, background.windows.shape[1])
        recorded = Recorded(np.stack(parts), np.stack(windows), np.array(is_noisy))
        found.append(Heard(clip.name, recorded, length, scores.astype(np.float32)))
        if progress is not None:
            progress()
    return found


def find_outlier(heard: Sequence[Heard], learned: LearnedWord) -> str | None:
    """Name of the one recording that sounds unlike the others, None: there is none."""
    worst = int(np.argmin(learned.clip_scores))
    others = np.delete(learned.clip_scores, worst)
    if learned.clip_scores[worst] < UNLIKE and np.median(others) > 0:
        return heard[worst].name
    return None


def find_similar(bundle: Bundle, heard: Sequence[Heard], label: str) -> str | None:
    """The keyword that fires at half or more of the recordings, None: there is none.

    label: the enrolled word that these recordings are of; it may.
    """
    for index, known in enumerate(bundle.labels):
        trigger = bundle.triggers.get(known)
        if trigger is None or known == label:
            continue
        fires = [one.scores[index] >= trigger.threshold for one in heard]
        if 2 * sum(fires) >= len(fires):
            return known
    return None


def learn(
    background: Background,
    heard: Sequence[Heard],
    *,
    false_accepts_per_hour: float,
    hop_ms: float,
) -> LearnedWord:
    """The classifier from all recordings."""
    return learn_word(
        background,
        [one.recorded for one in heard],
        length=float(np.median([one.length for one in heard])),
        false_accepts_per_hour=false_accepts_per_hour,
        hop_ms=hop_ms,
    )


def check_learned(heard: Sequence[Heard], learned: LearnedWord) -> None:
    """Raise EnrollmentError when most of the recordings do not stand out."""
    told_apart = int((learned.clip_scores > 0).sum())
    if 2 * told_apart < len(heard):
        raise EnrollmentError(
            f"only {told_apart} of {len(heard)} recordings stand out from other speech when the "
            "word is learned from the rest: record the same word again, clearly, or choose a "
            "longer one"
        )
