"""A deployable model: one folder that describes itself, checked before anything runs.

`bundle.json` names the task, labels, front end, window, hop, triggers, model files, origin
and licences, and the size and SHA-256 of every other file. A small golden input and output
let the runtime prove that the model here gives the numbers of the model that was trained.
Nothing in a bundle is ever unpickled. Knows nothing of how a model is run.
"""

import dataclasses
import importlib.resources
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_type_hints

import numpy as np
from numpy.typing import NDArray

from ssast_edge.bundle.enrolled import EmbeddingConfig, Enrolled, EnrolledWord, read_enrolled
from ssast_edge.errors import BundleError, SsastEdgeError
from ssast_edge.fbank import FbankConfig
from ssast_edge.integrity import FileRecord, check_files, check_name, record_file
from ssast_edge.manifest import ManifestError, check_keys, from_json, read_json
from ssast_edge.npz import read_npz
from ssast_edge.trigger import TriggerConfig

FloatArray = NDArray[np.float32]

MANIFEST = "bundle.json"
GOLDEN_FILE = "golden.npz"  # as written; when read, bundle.json says
MODEL_CARD = "MODEL_CARD.md"  # the same
SCHEMA_VERSION = 1
TASKS = ("keyword-spotting", "audio-tagging")
ACTIVATIONS = ("sigmoid", "softmax")
# What two CPUs may differ by in a float32 graph is 100 times less; another model, other
# weights or a wrong front end differ by far more.
GOLDEN_TOLERANCE = 1e-3

GOLDEN_ARRAYS = ("fbank", "logits")
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
            if one.weights.shape != (self.embedding.segments, self.embedding.width):
                raise ValueError(
                    f"enrolled {one.word.label!r} has weights of shape {one.weights.shape}, the "
                    f"embedding is {self.embedding_shape}"
                )


@dataclass(frozen=True, kw_only=True)
class GoldenFile:
    """Where bundle.json says the golden pair is."""

    file: str
    tolerance: float = GOLDEN_TOLERANCE

    def __post_init__(self) -> None:
        """Refuse a tolerance that would refuse or accept everything."""
        if not 0 < self.tolerance <= 1:
            raise ValueError(f"tolerance must be above 0 and at most 1, got {self.tolerance}")


class Model(Protocol):
    """What `replay_golden` needs of a backend."""

    def infer(self, fbank: FloatArray) -> FloatArray:
        """Logits, shape (labels,), for one window of raw log-mel."""


def default_bundles() -> list[str]:
    """Names of the bundles that are installed with this package."""
    folder = _shipped_folder()
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if (path / MANIFEST).is_file())


def load_bundle(name_or_path: str | Path) -> Bundle:
    """Read and check a bundle: a bare name is one that ships with this package, else a folder.

    Raises BundleError, in one line, for anything that is missing, altered or malformed.
    """
    try:
        return _load(_find(name_or_path))
    except (ValueError, ArithmeticError, OSError) as error:
        raise BundleError(f"bundle {name_or_path}: {error}") from error


def write_bundle(
    folder: str | Path,
    manifest: Mapping[str, Any],
    files: Mapping[str, str | Path],
    *,
    golden_fbank: FloatArray,
    golden_logits: FloatArray,
    golden_tolerance: float = GOLDEN_TOLERANCE,
    model_card: str | None = None,
) -> Bundle:
    """Write a bundle that `load_bundle` accepts, or leave `folder` as it was.

    manifest: the keys of bundle.json but schema_version, golden, files and model_card, which
    are added; dataclasses in it become objects. files: name in the bundle -> file to copy.
    model_card: Markdown for people. A bundle that is there already is replaced. Raises
    BundleError when the bundle would not load, or when `folder` holds something else.
    """
    target = Path(folder).resolve()
    try:
        if target.exists() and not (target / MANIFEST).is_file() and not _is_empty(target):
            raise ValueError("it is not a bundle: not replaced, give another folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        # A sibling, so that the last step is a rename within one file system.
        prefix = f".{target.name}."
        with tempfile.TemporaryDirectory(".tmp", prefix, target.parent) as temporary:
            new = Path(temporary) / "new"
            new.mkdir()
            for name, source in files.items():
                if name in (MANIFEST, GOLDEN_FILE, MODEL_CARD):
                    raise ValueError(f"file path {name!r} is taken")
                check_name(name)
                (new / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, new / name)
            np.savez(
                new / GOLDEN_FILE,
                fbank=np.asarray(golden_fbank, np.float32),
                logits=np.asarray(golden_logits, np.float32),
            )
            added: dict[str, Any] = {
                "schema_version": SCHEMA_VERSION,
                "golden": {"file": GOLDEN_FILE, "tolerance": golden_tolerance},
            }
            if model_card is not None:
                (new / MODEL_CARD).write_text(model_card, encoding="utf-8")
                added["model_card"] = MODEL_CARD
            written = sorted(path for path in new.rglob("*") if path.is_file())
            added["files"] = {
                path.relative_to(new).as_posix(): dataclasses.asdict(record_file(path))
                for path in written
            }
            (new / MANIFEST).write_text(_to_json({**manifest, **added}), encoding="utf-8")
            bundle = _load(new)
            _replace(target, new, Path(temporary) / "replaced")
    except (ValueError, OSError) as error:
        raise BundleError(f"bundle {target} not written: {error}") from error
    return dataclasses.replace(bundle, path=target)


def bundle_parts(bundle: Bundle) -> tuple[dict[str, Any], dict[str, Path]]:
    """What `write_bundle` wants to write `bundle` again: keys of its manifest, and its files.

    The golden pair and the model card are not among them.
    """
    manifest = from_json(read_json(bundle.path / MANIFEST), dict[str, Any])
    golden = from_json(manifest["golden"], GoldenFile, "golden").file
    own = (golden, manifest.get("model_card", ""))
    files = {name: bundle.path / name for name in manifest["files"] if name not in own}
    for key in (*FILE_KEYS, "model_card"):
        manifest.pop(key, None)
    return manifest, files


def rewrite_bundle(
    bundle: Bundle,
    folder: str | Path,
    manifest: Mapping[str, Any],
    files: Mapping[str, str | Path],
) -> Bundle:
    """Write `bundle` into `folder`, maybe its own, with another manifest and other files.

    The golden pair and the model card stay. Raises as `write_bundle` does.
    """
    card = None
    if bundle.model_card:
        card = (bundle.path / bundle.model_card).read_text(encoding="utf-8")
    return write_bundle(
        folder,
        manifest,
        files,
        golden_fbank=bundle.golden.fbank,
        golden_logits=bundle.golden.logits,
        golden_tolerance=bundle.golden.tolerance,
        model_card=card,
    )


def replay_golden(bundle: Bundle, model: Model, tolerance: float = 0.0) -> None:
    """Raise BundleError unless the model gives the bundle's golden output for its golden input.

    tolerance: largest difference of a logit; 0: the golden pair's own.
    """
    allowed = tolerance or bundle.golden.tolerance
    try:
        logits = np.asarray(model.infer(bundle.golden.fbank))
    except Exception as error:  # each backend has exception classes of its own
        raise BundleError(f"bundle {bundle.path}: the model cannot be run: {error}") from error
    wanted = bundle.golden.logits
    if logits.shape != wanted.shape:
        raise BundleError(
            f"bundle {bundle.path}: the model gives shape {logits.shape}, "
            f"wanted {wanted.shape}, one logit for each label"
        )
    difference = float(np.max(np.abs(logits - wanted)))
    # `not <=`: a logit that is not a number must not pass.
    if not difference <= allowed:
        raise BundleError(
            f"bundle {bundle.path}: the model does not give its golden output (differs by "
            f"{difference:.3g}, allowed {allowed:g}): another model, or a "
            "runtime that computes wrongly on this machine"
        )


def resolve_label(name: str, labels: Iterable[str]) -> str:
    """The label meant by `name`: "Smart mirror" and "smart-mirror" mean "smart_mirror".

    Raises SsastEdgeError, listing the labels, when there is none.
    """
    known = list(labels)
    if name in known:
        return name
    for label in known:
        if _plain(label) == _plain(name):
            return label
    raise SsastEdgeError(f"unknown keyword {name!r}, known: {', '.join(known) or 'none'}")


def same_label(first: str, second: str) -> bool:
    """Whether two names mean the same: "Smart mirror" is "smart_mirror"."""
    return _plain(first) == _plain(second)


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


def _plain(label: str) -> str:
    return re.sub(r"[\s_-]+", "_", label.strip().lower())


def _shipped_folder() -> Path:
    return Path(str(importlib.resources.files("ssast_edge"))) / "bundles"


def _find(name_or_path: str | Path) -> Path:
    folder = Path(name_or_path)
    is_bare_name = isinstance(name_or_path, str) and name_or_path == folder.name
    if is_bare_name and (_shipped_folder() / folder / MANIFEST).is_file():
        return _shipped_folder() / folder
    if (folder / MANIFEST).is_file():
        return folder
    if folder.is_dir():
        raise BundleError(f"bundle {folder}: {MANIFEST} is missing: not a bundle folder")
    names = ", ".join(default_bundles()) or "none"
    raise BundleError(
        f"no bundle {str(name_or_path)!r}: give a folder that holds {MANIFEST} or the name of "
        f"a bundle that ships with ssast-edge ({names})"
    )


def _load(folder: Path) -> Bundle:
    manifest = from_json(read_json(folder / MANIFEST), dict[str, Any])
    version = manifest.get("schema_version")
    # First of all: a later schema may well have other keys.
    if type(version) is not int or version != SCHEMA_VERSION:
        raise ManifestError(
            f"schema_version is {version!r}, this ssast-edge reads {SCHEMA_VERSION}: "
            "update ssast-edge, or export the bundle again"
        )
    hints = get_type_hints(Bundle)
    hints |= {"embedding": EmbeddingConfig, "enrolled": tuple[EnrolledWord, ...]}
    own_keys = [name for name in hints if name not in ("path", *FILE_KEYS)]
    optional = ["model_card", "embedding", "enrolled"]
    check_keys(manifest, [*FILE_KEYS, *own_keys], "", optional=optional)
    values = {
        name: from_json(manifest[name], hints[name], name) for name in own_keys if name in manifest
    }
    records = from_json(manifest["files"], dict[str, FileRecord], "files")
    golden = from_json(manifest["golden"], GoldenFile, "golden")
    words: tuple[EnrolledWord, ...] = values.pop("enrolled", ())
    embedding: EmbeddingConfig | None = values.get("embedding")
    named = [golden.file, *(model.file for model in values["models"])]
    named += [word.file for word in words]
    named += filter(None, [values.get("model_card"), embedding and embedding.background])
    for name in named:
        if name not in records:
            raise ValueError(f"file {name!r} is not listed in files")
    check_files(folder, records)
    pair = _read_golden(folder, golden)
    values["labels"] = (*values["labels"], *(word.label for word in words))
    enrolled = tuple(read_enrolled(folder, word) for word in words)
    return Bundle(path=folder, golden=pair, enrolled=enrolled, **values)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _replace(target: Path, new: Path, old: Path) -> None:
    try:
        if target.exists():
            target.rename(old)
        new.rename(target)
    except BaseException:  # a Ctrl-C too: what is left in `old` is deleted
        if old.exists():
            old.rename(target)
        raise


def _to_json(manifest: Mapping[str, Any]) -> str:
    text = json.dumps(
        manifest,
        indent=2,
        sort_keys=True,
        ensure_ascii=False,
        allow_nan=False,
        default=_plain_value,
    )
    return text + "\n"


def _plain_value(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written into {MANIFEST}")


def _read_golden(folder: Path, golden: GoldenFile) -> Golden:
    arrays = read_npz(folder / golden.file, GOLDEN_ARRAYS, f"golden file {golden.file}")
    fbank, logits = arrays.values()
    for array in (fbank, logits):
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise ValueError(f"golden file {golden.file} must hold finite float32 numbers")
    return Golden(fbank=fbank, logits=logits, tolerance=golden.tolerance)
