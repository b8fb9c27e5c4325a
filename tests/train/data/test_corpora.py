"""Manifests of known corpora, from small folders in their published layouts."""

from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed (extra: train)")

from train.data.corpora import prepare  # noqa: E402
from train.data.manifest import Manifest, ManifestError, read_manifest  # noqa: E402


def touch(root: Path, *places: str) -> None:
    for place in places:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).touch()


def only(name: str, root: Path) -> Manifest:
    (path,) = prepare(name, root, root / "out")
    return read_manifest(path)


def test_audioset_joins_segments_and_the_files_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "class_labels_indices.csv").write_text(
        'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/05zppz,"Male speech, man speaking"\n'
    )
    head = "# Segments csv created Sun Mar  5 10:54:31 2017\n# YTID, start, end, positive_labels\n"
    (tmp_path / "balanced_train_segments.csv").write_text(
        head + '--4gqARaEJE, 0.000, 10.000, "/m/09x0r,/m/05zppz"\ngone1234567, 0, 10, "/m/09x0r"\n'
    )
    (tmp_path / "unbalanced_train_segments.csv").write_text(
        head + 'unbalanced1, 0.000, 10.000, "/m/09x0r,/m/unknown"\n'
    )
    (tmp_path / "eval_segments.csv").write_text(head + 'eval5678901, 30, 40, "/m/05zppz"\n')
    touch(tmp_path, "wav/Y--4gqARaEJE.wav", "wav/unbalanced1.flac", "eval/eval5678901_30.ogg")
    small, full = prepare("audioset", tmp_path, tmp_path / "out")
    manifest = read_manifest(small)
    assert manifest.classes == ("/m/09x0r", "/m/05zppz")
    assert [(e.split, e.labels) for e in manifest.examples] == [
        ("train", ("/m/09x0r", "/m/05zppz")),
        ("val", ("/m/05zppz",)),
    ]
    assert len(read_manifest(full).examples) == 3


def test_librispeech_splits_by_set_and_names_speakers(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *(f"{part}/84/121123/84-121123-0000.flac" for part in (
            "train-clean-100", "train-other-500", "dev-clean", "test-other",
        )),
    )  # fmt: skip
    manifest = only("librispeech", tmp_path)
    assert Counter(e.split for e in manifest.examples) == {"train": 2, "val": 1, "test": 1}
    assert {e.speaker for e in manifest.examples} == {"84"}
    assert not manifest.classes


def test_esc50_has_five_folds(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "esc50.csv").write_text(
        "filename,fold,target,category,esc10,src_file,take\n"
        "1-100032-A-0.wav,1,0,dog,True,100032,A\n5-9032-A-0.wav,5,1,rooster,False,9032,A\n"
    )
    manifest = only("esc50", tmp_path)
    assert [(e.labels, e.fold, e.source) for e in manifest.examples] == [
        (("dog",), 1, "esc10"),
        (("rooster",), 5, "esc50_nc"),
    ]


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("speech_commands_v2_35", {"bed", "yes"}),
        ("speech_commands_v2_12", {"_unknown_", "_silence_", "yes"}),
        ("speech_commands_v1_12", {"_unknown_", "_silence_", "yes"}),
    ],
)
def test_speech_commands_uses_its_official_lists(
    name: str, classes: set[str], tmp_path: Path
) -> None:
    places = [f"{word}/{s}_nohash_0.wav" for word in ("bed", "yes") for s in ("a1", "b2", "c3")]
    touch(tmp_path, *places, "_background_noise_/pink_noise.wav")
    (tmp_path / "validation_list.txt").write_text("bed/b2_nohash_0.wav\nyes/b2_nohash_0.wav\n")
    (tmp_path / "testing_list.txt").write_text("bed/c3_nohash_0.wav\nyes/c3_nohash_0.wav\n")
    manifest = only(name, tmp_path)
    assert set(manifest.classes) == classes
    words = [e for e in manifest.examples if e.labels != ("_silence_",)]
    assert Counter(e.split for e in words) == {"train": 2, "val": 2, "test": 2}
    assert {e.speaker: e.split for e in words} == {"a1": "train", "b2": "val", "c3": "test"}


def test_voxceleb1_uses_the_identification_split(tmp_path: Path) -> None:
    places = [f"id1000{i}/x/0000{i}.wav" for i in (1, 2, 3)]
    touch(tmp_path, *(f"wav/{place}" for place in places))
    (tmp_path / "iden_split.txt").write_text(
        "".join(f"{n} {p}\n" for n, p in enumerate(places, 1)) + "1 id10009/x/absent.wav\n"
    )
    manifest = only("voxceleb1", tmp_path)
    assert [(e.split, e.labels) for e in manifest.examples] == [
        ("train", ("id10001",)), ("val", ("id10002",)), ("test", ("id10003",)),
    ]  # fmt: skip


def test_iemocap_has_a_fold_a_session_and_four_classes(tmp_path: Path) -> None:
    for session in range(1, 6):
        turns = {f"Ses0{session}F_impro01_{who}000": label for who, label in (
            ("F", "neu"), ("M", "exc"), ("X", "fru"),
        )}  # fmt: skip
        report = tmp_path / f"Session{session}/dialog/EmoEvaluation/Ses0{session}F_impro01.txt"
        touch(tmp_path, str(report.relative_to(tmp_path)))
        report.write_text(
            "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
            + "".join(f"[6.2 - 8.2]\t{t}\t{label}\t[2.5, 2.5, 2.5]\n" for t, label in turns.items())
        )
        touch(tmp_path, *(
            f"Session{session}/sentences/wav/Ses0{session}F_impro01/{turn}.wav" for turn in turns
        ))  # fmt: skip
    manifest = only("iemocap", tmp_path)
    assert Counter(e.fold for e in manifest.examples) == dict.fromkeys(range(1, 6), 2)
    assert Counter(e.labels[0] for e in manifest.examples) == {"neutral": 5, "happy": 5}
    assert len({e.speaker for e in manifest.examples}) == 10


def test_packs_keep_the_test_split_and_esc50_out_of_the_unlabelled_audio(
    tiny_data: Path, tmp_path: Path
) -> None:
    paths = prepare("packs", tiny_data, tmp_path)
    unlabelled, words, sounds, ten = (read_manifest(path) for path in paths)
    assert {e.split for e in unlabelled.examples} == {"train", "val"}
    assert not [e for e in unlabelled.examples if "esc" in e.path or e.labels]
    assert Counter(e.split for e in words.examples) == {"train": 1, "val": 1, "test": 1}
    assert {e.fold for e in sounds.examples} == {1, 2, 3, 4}
    assert {e.path for e in ten.examples} <= {e.path for e in sounds.examples}
    assert {e.source for e in ten.examples} == {"esc10"}


def test_a_wrong_folder_or_name_is_one_clear_line(tmp_path: Path) -> None:
    for name, root, message in (
        ("esc51", tmp_path, "unknown corpus 'esc51', known: audioset"),
        ("esc50", tmp_path / "none", "no such folder"),
        ("esc50", tmp_path, "esc50.csv is missing"),
        ("librispeech", tmp_path, "no recording of librispeech found"),
    ):
        with pytest.raises(ManifestError, match=message):
            prepare(name, root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
