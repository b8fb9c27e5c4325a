"""What a bundle is: its fields, and the rules that they keep."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssast_edge.bundle.enrolled import EmbeddingConfig, Enrolled
from ssast_edge.fbank import FbankConfig
from ssast_edge.trigger import TriggerConfig

FloatArray = NDArray[np.float32]

MANIFEST = "bundle.json"
SCHEMA_VERSION = 1
TASKS = ("keyword-spotting", "audio-tagging")
ACTIVATIONS = ("sigmoid", "softmax")
# What two CPUs may differ by in a float32 graph is 100 times less; another model, other
# weights or a wrong front end differ by far more.
GOLDEN_TOLERANCE = 1e-3
# The keys of bundle.json that Bundle does not hold as they are.
FILE_KEYS = ("schema_version", "golden", "files")

_DATA_KEYS = ("name", "licence", "attribution", "source")


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """How the graph normalises the raw log-mel: (x - mean) / (2 * std). For the record only."""

    mean: float
    std: float

    def __post_init__(self) -> None:
        """Refuse a spread that nothing can be divided by."""
        if not self.std > 0:
            raise ValueError(f"std must be above 0, got {self.std}")


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """One form of the model in the bundle.

    A TensorRT engine is built on the device that runs it, so `file` of the backend "tensorrt" is
    the ONNX graph that it is built from.
    """

    backend: str  # "onnx", "tensorrt"
    precision: str  # "fp32", "fp16", "int8"
    file: str  # path inside the bundle
    tolerance: float = 0.0  # largest difference from the golden logits; 0: the golden pair's own

    def __post_init__(self) -> None:
        """Refuse a tolerance below 0."""
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance must be 0 or more, got {self.tolerance}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Golden:
    """An input and what the model gave for it where it was made."""

    fbank: FloatArray  # (window_frames, num_mel_bins), raw log-mel
    logits: FloatArray  # (labels,)
    tolerance: float = GOLDEN_TOLERANCE  # largest absolute difference of a logit


@dataclass(frozen=True, kw_only=True)
class GoldenFile:
    """Where bundle.json says the golden pair is."""

    file: str
    tolerance: float = GOLDEN_TOLERANCE

    def __post_init__(self) -> None:
        """Refuse a tolerance that would refuse or accept everything."""
        if not 0 < self.tolerance <= 1:
            raise ValueError(f"tolerance must be above 0 and at most 1, got {self.tolerance}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Bundle:
    """A loaded bundle: every file in it has been checked, the model is not opened yet."""

    path: Path
    name: str
    version: str
    task: str  # one of TASKS
    labels: tuple[str, ...]  # in the order of the model's output, then the enrolled words
    fbank: FbankConfig
    normalization: Normalization
    window_frames: int  # fbank frames the model sees
    hop_ms: int  # audio between two inferences
    activation: str  # logits to scores: one of ACTIVATIONS
    models: tuple[ModelFile, ...]  # the first that can be run is used
    triggers: dict[str, TriggerConfig]  # by label; a label without one never fires
    golden: Golden
    provenance: dict[str, Any]  # free JSON: recipe, seed, date, commit, metrics
    data: tuple[dict[str, str], ...]  # name, licence, attribution, source of each data set
    licence: str
    model_card: str = ""  # path inside the bundle of a text for people; empty = none
    embedding: EmbeddingConfig | None = None  # the model's second output; None: it has none
    enrolled: tuple[Enrolled, ...] = ()  # words that were added on the device

    @property
    def model_labels(self) -> tuple[str, ...]:
        """The labels that the model itself has a logit for."""
        return self.labels[: len(self.labels) - len(self.enrolled)]

    @property
    def embedding_shape(self) -> tuple[int, int] | None:
        """(segments, width) of the embedding, None for a model without."""
        return None if self.embedding is None else (self.embedding.segments, self.embedding.width)

    def __post_init__(self) -> None:
        """Refuse fields that contradict each other."""
        _one_of("task", self.task, TASKS)
        _one_of("activation", self.activation, ACTIVATIONS)
        for label in (self.name, self.version, *self.labels):
            if not label.strip() or not label.isprintable():
                raise ValueError(f"names and labels must be printable text, got {label!r}")
        if not self.labels:
            raise ValueError("labels must name at least one label")
        if len(set(self.labels)) != len(self.labels):
            twice = next(label for label in self.labels if self.labels.count(label) > 1)
            raise ValueError(f"label {twice!r} is given twice")
        if self.window_frames < 1:
            raise ValueError(f"window_frames must be at least 1, got {self.window_frames}")
        check_hop(self.hop_ms, self.fbank, self.window_frames)
        if not self.models:
            raise ValueError("models must name at least one model file")
        for label in self.triggers:
            if label not in self.labels:
                raise ValueError(f"trigger for unknown label {label!r}")
        if self.task == "keyword-spotting" and not self.triggers:
            raise ValueError("triggers must name at least one label: nothing could be detected")
        for source in self.data:
            if set(source) != set(_DATA_KEYS):
                raise ValueError(f"each of data must have {', '.join(_DATA_KEYS)}, got {source}")
        self._check_enrolled()
        wanted = (self.window_frames, self.fbank.num_mel_bins), (len(self.model_labels),)
        shapes = self.golden.fbank.shape, self.golden.logits.shape
        if shapes != wanted:
            raise ValueError(
                f"golden fbank and logits have the shapes {shapes[0]} and {shapes[1]}, wanted "
                f"{wanted[0]} and {wanted[1]} by window_frames, num_mel_bins and labels"
            )

    def _check_enrolled(self) -> None:
        if not self.enrolled:
            return
        if self.embedding is None:
            raise ValueError("enrolled words need a model with an embedding")
        if self.labels[-len(self.enrolled) :] != tuple(one.word.label for one in self.enrolled):
            raise ValueError("the enrolled words must be the last of the labels")
        for one in self.enrolled:
            if one.weights.shape[1:] != (self.embedding.segments, self.embedding.width):
                raise ValueError(
                    f"enrolled {one.word.label!r} has weights of shape {one.weights.shape}, the "
                    f"embedding is {self.embedding_shape}"
                )


def check_hop(hop_ms: int, fbank: FbankConfig, window_frames: int) -> None:
    """Raise ValueError unless hop_ms is a whole number of fbank frames, within one window."""
    frames = hop_ms / fbank.hop_ms
    if frames > window_frames:
        raise ValueError(
            f"hop_ms must be at most {window_frames * fbank.hop_ms:g}, the window, got {hop_ms}: "
            "words between two windows would not be heard"
        )
    if frames < 1 or frames != round(frames):
        raise ValueError(f"hop_ms must be a multiple of {fbank.hop_ms:g} ms, got {hop_ms}")


def _one_of(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"unsupported {field} {value!r}, this ssast-edge knows {', '.join(known)}")
