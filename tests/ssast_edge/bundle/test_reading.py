"""A bundle that was written loads; one that was tampered with is refused in one clear line."""

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssast_edge.backends import open_backend
from ssast_edge.bundle import Bundle, default_bundles, load_bundle, replay_golden
from ssast_edge.errors import BundleError
from ssast_edge.trigger import TriggerConfig

Table = dict[str, Any]


@pytest.fixture
def folder(tone_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tone bundle to tamper with."""
    return Path(shutil.copytree(tone_folder, tmp_path / "tones"))


def read(folder: Path) -> Table:
    """bundle.json as it is."""
    table: Table = json.loads((folder / "bundle.json").read_text())
    return table


def edit(folder: Path, change: Callable[[Table], object]) -> None:
    """Change bundle.json."""
    table = read(folder)
    change(table)
    (folder / "bundle.json").write_text(json.dumps(table))


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """Replace a file as somebody would who also corrects its record."""
    (folder / name).write_bytes(content)
    record = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    edit(folder, lambda table: table["files"].update({name: record}))


def refusal(folder: Path) -> str:
    """The message with which the bundle is refused, loading or opening the model."""
    with pytest.raises(BundleError) as caught:
        open_backend(load_bundle(folder))
    message = str(caught.value)
    assert message.isprintable()  # no line break, nothing that a terminal obeys
    assert "tones" in message  # says which bundle
    return message


# what loads


def test_loaded_fields_are_those_written(tone_bundle: Bundle, tone_folder: Path) -> None:
    assert tone_bundle.path == tone_folder
    assert tone_bundle.labels == ("low_tone", "high_tone", "other")
    assert tone_bundle.triggers["low_tone"] == TriggerConfig(
        threshold=0.5, smoothing_ms=80, min_hits=2, refractory_s=0.5
    )
    assert tone_bundle.models[0].file == "model.onnx"
    assert tone_bundle.provenance == {"made": "by hand", "seed": 1}
    assert tone_bundle.data[0]["licence"] == "CC0-1.0"
    assert tone_bundle.model_card == "MODEL_CARD.md"


def test_golden_pair_is_loaded(tone_bundle: Bundle) -> None:
    assert tone_bundle.golden.fbank.shape == (20, 128)
    assert tone_bundle.golden.logits.shape == (3,)


def test_path_may_be_text(tone_folder: Path) -> None:
    assert load_bundle(str(tone_folder)).name == "tones"


def test_bare_name_of_a_local_folder_loads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert load_bundle("tones").name == "tones"


def test_bare_name_is_a_shipped_bundle_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "shipped"
    shutil.copytree(folder, shipped / "tones")
    monkeypatch.setattr("ssast_edge.bundle.reading._shipped_folder", lambda: shipped)
    monkeypatch.chdir(tmp_path)
    assert default_bundles() == ["tones"]
    assert load_bundle("tones").path == shipped / "tones"


def test_bundle_folder_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert load_bundle(tmp_path / "link").name == "tones"


def test_file_that_is_not_listed_is_ignored(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    assert load_bundle(folder).name == "tones"


def test_keys_with_a_default_may_be_absent(folder: Path) -> None:
    edit(folder, lambda table: table["triggers"]["low_tone"].pop("rearm"))
    assert load_bundle(folder).triggers["low_tone"].rearm == 0.5


def test_audio_tagging_needs_no_triggers(folder: Path) -> None:
    edit(folder, lambda table: table.update(task="audio-tagging", triggers={}))
    assert load_bundle(folder).triggers == {}


def test_shipped_bundles_load() -> None:
    for name in default_bundles():
        open_backend(load_bundle(name)).close()


# what is refused: files


def test_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(BundleError, match="no bundle 'nonesuch'.*bundle.json"):
        load_bundle("nonesuch")


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 5000, "/nonesuch/bundle", "a/../.."])
def test_name_that_cannot_be_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(BundleError) as caught:
        load_bundle(name)
    assert "\n" not in str(caught.value)


def test_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="bundle.json is missing"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "MODEL_CARD.md"])
def test_missing_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert f"file {name} is missing" in refusal(folder)


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "MODEL_CARD.md"])
def test_flipped_byte_is_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert f"file {name} was altered: sha256" in refusal(folder)


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz"])
@pytest.mark.parametrize("kept", [0, 1, -1])
def test_truncated_file_is_refused(folder: Path, name: str, kept: int) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:kept])
    assert f"file {name} was altered" in refusal(folder)


def test_longer_file_is_refused(folder: Path) -> None:
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")
    assert "file model.onnx was altered" in refusal(folder)


def test_folder_in_place_of_a_file_is_refused(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()
    assert "file model.onnx is missing" in refusal(folder)


def test_pipe_in_place_of_a_file_is_refused(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")
    assert "file model.onnx is missing" in refusal(folder)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../tones/model.onnx",
        "sub/../../model.onnx",
        "..",
        ".",
        "",
        "./model.onnx",
        "sub//model.onnx",
        "C:model.onnx",
        "C:\\model.onnx",
        "..\\model.onnx",
        "\\\\host\\share\\model.onnx",
        "model\u0000.onnx",
        "model\n.onnx",
    ],
)
def test_file_path_that_is_not_plain_is_refused(folder: Path, name: str) -> None:
    def change(table: Table) -> None:
        table["files"][name] = table["files"].pop("model.onnx")
        table["models"][0]["file"] = name

    edit(folder, change)
    assert "file path" in refusal(folder)


def test_absolute_path_to_the_right_file_is_refused(folder: Path) -> None:
    def change(table: Table) -> None:
        table["files"][str(folder / "model.onnx")] = table["files"].pop("model.onnx")
        table["models"][0]["file"] = str(folder / "model.onnx")

    edit(folder, change)
    assert "is not a plain path inside the folder" in refusal(folder)


def test_link_out_of_the_folder_is_refused(folder: Path) -> None:
    (folder / "model.onnx").rename(folder.parent / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to("../elsewhere.onnx")
    assert "file model.onnx is a link that leads out of the folder" in refusal(folder)


def test_linked_subfolder_out_of_the_folder_is_refused(folder: Path) -> None:
    outside = folder.parent / "outside"
    outside.mkdir()
    (folder / "model.onnx").rename(outside / "model.onnx")
    (folder / "sub").symlink_to(outside)

    def change(table: Table) -> None:
        table["files"]["sub/model.onnx"] = table["files"].pop("model.onnx")
        table["models"][0]["file"] = "sub/model.onnx"

    edit(folder, change)
    assert "file sub/model.onnx is a link" in refusal(folder)


def test_link_within_the_folder_loads(folder: Path) -> None:
    (folder / "model.onnx").rename(folder / "real.onnx")
    (folder / "model.onnx").symlink_to("real.onnx")
    assert load_bundle(folder).name == "tones"


# what is refused: the manifest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "broken JSON"),
        (b"{", "broken JSON"),
        (b'{"name": "tones",}', "broken JSON"),
        (b"\xff\xfe{}", "broken JSON: not UTF-8"),
        (b"[" * 100_000, "broken JSON"),
        (b"[]", "must be an object, got a list"),
        (b"null", "must be an object, got null"),
        (b'{"schema_version": 1, "schema_version": 1}', "'schema_version' is given twice"),
    ],
)
def test_broken_json_is_refused(folder: Path, text: bytes, message: str) -> None:
    (folder / "bundle.json").write_bytes(text)
    assert message in refusal(folder)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_number_that_is_not_finite_is_refused(folder: Path, number: str) -> None:
    text = (folder / "bundle.json").read_text()
    (folder / "bundle.json").write_text(text.replace('"seed": 1', f'"seed": {number}'))
    assert f"numbers must be finite, got {number}" in refusal(folder)


@pytest.mark.parametrize("version", [0, 2, 99, "1", 1.0, True, None])
def test_unknown_schema_version_is_refused(folder: Path, version: object) -> None:
    edit(folder, lambda table: table.update(schema_version=version, later_key=1))
    assert f"schema_version is {version!r}, this ssast-edge reads 1" in refusal(folder)


def test_absent_schema_version_is_refused(folder: Path) -> None:
    edit(folder, lambda table: table.pop("schema_version"))
    assert "schema_version is None" in refusal(folder)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ((), "unknown key 'extra'"),
        (("fbank",), "unknown key 'fbank.extra'"),
        (("normalization",), "unknown key 'normalization.extra'"),
        (("models", 0), "unknown key 'models[0].extra'"),
        (("triggers", "low_tone"), "unknown key 'triggers.low_tone.extra'"),
        (("golden",), "unknown key 'golden.extra'"),
        (("files", "model.onnx"), "unknown key 'files.model.onnx.extra'"),
    ],
)
def test_unknown_key_is_refused(folder: Path, where: tuple[Any, ...], message: str) -> None:
    def change(table: Any) -> None:
        for key in where:
            table = table[key]
        table["extra"] = 1

    edit(folder, change)
    assert message in refusal(folder)


@pytest.mark.parametrize(
    "key",
    [
        *("name", "version", "task", "labels", "fbank", "normalization", "window_frames"),
        *("hop_ms", "activation", "models", "triggers", "golden", "provenance", "data"),
        *("licence", "files"),
    ],
)
def test_missing_key_is_refused(folder: Path, key: str) -> None:
    edit(folder, lambda table: table.pop(key))
    assert f"key {key!r} is missing" in refusal(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("name", 3, "name must be a text, got 3"),
        ("labels", "low_tone", 'labels must be a list, got "low_tone"'),
        ("labels", ["low_tone", 1, "other"], "labels[1] must be a text, got 1"),
        ("fbank", [], "fbank must be an object, got a list"),
        ("window_frames", 20.0, "window_frames must be a whole number, got 20.0"),
        ("window_frames", True, "window_frames must be a whole number, got true"),
        ("window_frames", "20", 'window_frames must be a whole number, got "20"'),
        ("hop_ms", None, "hop_ms must be a whole number, got null"),
        ("normalization", {"mean": "0", "std": 1}, 'normalization.mean must be a number, got "0"'),
        ("normalization", {"mean": False, "std": 1}, "normalization.mean must be a number"),
        ("normalization", {"mean": 10**400, "std": 1}, "normalization.mean must be a number that"),
        ("models", {}, "models must be a list, got an object"),
        ("models", ["model.onnx"], "models[0] must be an object"),
        ("triggers", {"low_tone": 0.5}, "triggers.low_tone must be an object, got 0.5"),
        ("triggers", {"low_tone": {"min_hits": 1.5}}, "triggers.low_tone.min_hits must be a whole"),
        ("golden", "golden.npz", "golden must be an object"),
        ("files", ["model.onnx"], "files must be an object, got a list"),
        ("files", {"model.onnx": "abc"}, "files.model.onnx must be an object"),
        ("provenance", "hand", "provenance must be an object"),
        ("data", {}, "data must be a list"),
        ("data", [{"name": "x", "licence": 1}], "data[0].licence must be a text, got 1"),
        ("model_card", 1, "model_card must be a text"),
    ],
)
def test_wrong_type_is_refused(folder: Path, key: str, value: object, message: str) -> None:
    edit(folder, lambda table: table.update({key: value}))
    assert message in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "diarization"}, "unsupported task 'diarization', this ssast-edge knows keyword"),
        ({"activation": "relu"}, "unsupported activation 'relu'"),
        ({"labels": ["low_tone", "high_tone", "low_tone"]}, "label 'low_tone' is given twice"),
        ({"labels": ["low_tone", "high_tone", " "]}, "must be printable text, got ' '"),
        ({"labels": ["low_tone", "high_tone", "\x1b[2J"]}, "must be printable text"),
        ({"name": ""}, "must be printable text"),
        ({"triggers": {"siren": {}}}, "trigger for unknown label 'siren'"),
        ({"triggers": {}}, "triggers must name at least one label"),
        ({"triggers": {"low_tone": {"threshold": 1.5}}}, "triggers.low_tone: threshold must be"),
        ({"window_frames": 0}, "window_frames must be at least 1, got 0"),
        ({"hop_ms": 0}, "hop_ms must be a multiple of 10 ms, got 0"),
        ({"hop_ms": 45}, "hop_ms must be a multiple of 10 ms, got 45"),
        ({"hop_ms": 10**400}, "too large"),
        ({"hop_ms": -40}, "hop_ms must be a multiple of 10 ms, got -40"),
        ({"normalization": {"mean": 0, "std": 0}}, "normalization: std must be above 0"),
        ({"models": []}, "models must name at least one model file"),
        ({"model_card": "CARD.md"}, "file 'CARD.md' is not listed in files"),
        ({"golden": {"file": "other.npz"}}, "file 'other.npz' is not listed in files"),
        ({"golden": {"file": "golden.npz", "tolerance": 0}}, "golden: tolerance must be"),
        ({"data": [{"name": "x"}]}, "each of data must have name, licence, attribution, source"),
    ],
)
def test_contradiction_is_refused(folder: Path, changes: Table, message: str) -> None:
    edit(folder, lambda table: table.update(changes))
    assert message in refusal(folder)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([10**400, 1e308, -0.0]) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(data=st.data())
def test_any_change_of_the_manifest_loads_or_is_refused(
    tone_folder: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("fuzz") / "tones"
    shutil.copytree(tone_folder, folder)
    table: Any = read(folder)
    where = table
    while True:
        keys = list(range(len(where))) if isinstance(where, list) else sorted(where)
        key = data.draw(st.sampled_from(keys))
        if not isinstance(where[key], dict | list) or not where[key] or data.draw(st.booleans()):
            break
        where = where[key]
    where[key] = data.draw(json_values)
    (folder / "bundle.json").write_text(json.dumps(table))
    message = ""
    try:
        load_bundle(folder)
    except BundleError as error:
        message = str(error)
    assert message.isprintable()


def test_front_end_that_cannot_be_is_refused(folder: Path) -> None:
    edit(folder, lambda table: table["fbank"].update(num_mel_bins=0))
    assert "fbank: " in refusal(folder)


def test_model_that_is_not_listed_in_files_is_refused(folder: Path) -> None:
    edit(folder, lambda table: table["files"].pop("model.onnx"))
    assert "file 'model.onnx' is not listed in files" in refusal(folder)


# what is refused: the golden pair and the model


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": ["low_tone", "high_tone"]},
        {"labels": ["low_tone", "high_tone", "other", "more"]},
        {"window_frames": 21},
    ],
)
def test_golden_pair_of_another_shape_is_refused(folder: Path, changes: Table) -> None:
    edit(folder, lambda table: table.update(changes))
    assert "golden fbank and logits have the shapes" in refusal(folder)


def test_model_with_another_number_of_labels_is_refused(
    folder: Path, onnx_model: Callable[..., Any]
) -> None:
    replace_file(folder, "model.onnx", onnx_model(num_labels=2).SerializeToString())
    assert "output is logits (1, 2) tensor(float); the bundle wants logits (1, 3)" in refusal(
        folder
    )


def test_model_of_another_window_is_refused(
    folder: Path, onnx_model: Callable[..., Any], tmp_path: Path
) -> None:
    def change(table: Table) -> None:
        table["window_frames"] = 19

    np.savez(
        tmp_path / "golden.npz",
        fbank=np.zeros((19, 128), np.float32),
        logits=np.zeros(3, np.float32),
    )
    replace_file(folder, "golden.npz", (tmp_path / "golden.npz").read_bytes())
    edit(folder, change)
    assert "input is fbank (1, 20, 128)" in refusal(folder)


def test_other_weights_are_refused(folder: Path, onnx_model: Callable[..., Any]) -> None:
    model = onnx_model()
    bias = model.graph.initializer[1]
    bias.raw_data = np.array([-3, -3.01, -6], np.float32).tobytes()
    replace_file(folder, "model.onnx", model.SerializeToString())
    assert "does not give its golden output (differs by 0.01" in refusal(folder)


def test_model_that_is_no_model_is_refused(folder: Path) -> None:
    replace_file(folder, "model.onnx", b"not a model")
    assert "ONNX Runtime cannot open the model" in refusal(folder)


def npz(path: Path, **arrays: Any) -> bytes:
    """Content of an .npz file."""
    np.savez(path, **arrays)
    return path.with_suffix(".npz").read_bytes()


class _Opens:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("form", ["array", "bare"])
def test_pickle_in_the_golden_pair_is_refused_and_not_run(
    folder: Path, tmp_path: Path, form: str
) -> None:
    canary = tmp_path / "canary"
    content = pickle.dumps(_Opens(canary))
    if form == "array":
        objects = np.array([_Opens(canary)], dtype=object)
        content = npz(tmp_path / "evil", fbank=objects, logits=np.zeros(3, np.float32))
    replace_file(folder, "golden.npz", content)
    assert "must be an .npz of plain arrays fbank and logits" in refusal(folder)
    assert not canary.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"text"])
def test_golden_file_that_is_no_npz_is_refused(folder: Path, content: bytes) -> None:
    replace_file(folder, "golden.npz", content)
    assert "must be an .npz of plain arrays fbank and logits" in refusal(folder)


def test_bare_array_in_place_of_an_npz_is_refused(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.zeros(3, np.float32))
    replace_file(folder, "golden.npz", (tmp_path / "array.npy").read_bytes())
    assert "must be an .npz of plain arrays fbank and logits" in refusal(folder)


@pytest.mark.parametrize(
    "arrays",
    [
        {"fbank": np.zeros((20, 128), np.float64), "logits": np.zeros(3, np.float32)},
        {"fbank": np.zeros((20, 128), np.float32), "logits": np.zeros(3, np.int32)},
        {"fbank": np.full((20, 128), np.nan, np.float32), "logits": np.zeros(3, np.float32)},
        {"fbank": np.zeros((20, 128), np.float32), "logits": np.full(3, np.inf, np.float32)},
    ],
    ids=["float64", "int", "nan", "inf"],
)
def test_golden_numbers_must_be_finite_float32(folder: Path, tmp_path: Path, arrays: Table) -> None:
    replace_file(folder, "golden.npz", npz(tmp_path / "golden", **arrays))
    assert "must hold finite float32 numbers" in refusal(folder)


def test_golden_array_that_is_absent_is_refused(folder: Path, tmp_path: Path) -> None:
    content = npz(tmp_path / "golden", fbank=np.zeros((20, 128), np.float32))
    replace_file(folder, "golden.npz", content)
    assert "must be an .npz of plain arrays fbank and logits" in refusal(folder)


def test_model_that_gives_no_number_fails_the_golden_pair(tone_bundle: Bundle) -> None:
    class Nan:
        def infer(self, fbank: Any) -> Any:
            return np.full(3, np.nan, np.float32)

    with pytest.raises(BundleError, match="golden output"):
        replay_golden(tone_bundle, Nan())


def test_model_that_cannot_be_run_is_refused(tone_bundle: Bundle) -> None:
    class Broken:
        def infer(self, fbank: Any) -> Any:
            raise RuntimeError("index out of\nbounds")

    with pytest.raises(BundleError, match="the model cannot be run: index out of bounds$"):
        replay_golden(tone_bundle, Broken())
