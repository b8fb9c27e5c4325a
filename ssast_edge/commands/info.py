"""`ssast-edge info`: what is in a bundle, where it comes from and under which licences."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from ssast_edge.commands.options import DEFAULT_BUNDLE

if TYPE_CHECKING:
    from ssast_edge.bundle import Bundle

_COLUMN = 12


@click.command()
@click.argument("bundle", default=DEFAULT_BUNDLE, metavar="[BUNDLE]")
@click.option("--json", "as_json", is_flag=True, help="The bundle's manifest as one JSON object.")
def info(bundle: str, as_json: bool) -> None:
    """Describe BUNDLE, a name or a folder; wake-words if none is given.

    Every file of it is checked first.
    """
    from ssast_edge.bundle import MANIFEST, load_bundle
    from ssast_edge.commands.output import print_json
    from ssast_edge.errors import one_line
    from ssast_edge.manifest import read_json

    model = load_bundle(bundle)
    if as_json:
        print_json("bundle", {"path": str(model.path), **read_json(model.path / MANIFEST)})
        return
    for name, value in _lines(model):
        click.echo(f"{name:<{_COLUMN}}{one_line(value)}".rstrip())


def _lines(bundle: "Bundle") -> Iterator[tuple[str, str]]:
    """Name and value of each line; no name where a line goes on with the one above."""
    fbank = bundle.fbank
    window_s = bundle.window_frames * fbank.hop_ms / 1000
    yield "bundle", f"{bundle.name} {bundle.version}"
    yield "folder", str(bundle.path)
    yield "task", bundle.task
    yield "licence", bundle.licence
    yield "labels", ", ".join(bundle.labels)
    yield (
        "input",
        f"{fbank.sample_rate} Hz, {fbank.num_mel_bins} mel bins, the last {window_s:.2f} s",
    )
    yield "hop", f"{bundle.hop_ms} ms"
    for index, model in enumerate(bundle.models):
        megabytes = (bundle.path / model.file).stat().st_size / 1e6
        text = f"{model.backend} {model.precision}, {model.file}, {megabytes:.1f} MB"
        yield "" if index else "models", text
    for index, (label, trigger) in enumerate(bundle.triggers.items()):
        how = f"{trigger.min_hits} hit{'' if trigger.min_hits == 1 else 's'} in a row"
        if trigger.smoothing_ms:
            how += f", mean of {trigger.smoothing_ms:g} ms"
        text = (
            f"{label}: fires at {trigger.threshold:g} ({how}), again once below "
            f"{trigger.rearm * trigger.threshold:g} and after {trigger.refractory_s:g} s"
        )
        yield "" if index else "triggers", text
    for index, one in enumerate(bundle.enrolled):
        word = one.word
        text = f"{word.label}: from {word.clips} recordings"
        if word.date:
            text += f", {word.date}"
        text += f", for {word.false_accepts_per_hour:g} false accepts an hour of speech"
        yield "" if index else "enrolled", text
    for index, (key, value) in enumerate(_flat(bundle.provenance)):
        yield "" if index else "made by", f"{key}: {value}"
    for index, source in enumerate(bundle.data):
        text = (
            f"{source['name']} ({source['licence']}), {source['attribution']}, {source['source']}"
        )
        yield "" if index else "data", text
    if bundle.model_card:
        yield "model card", str(bundle.path / bundle.model_card)


def _flat(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Keys and values, two tables deep: the rest of a recipe is for --json."""
    for key, value in table.items():
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            yield prefix + key, f"{len(value)} entries, see --json"
        elif not isinstance(value, dict):
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield prefix + key, shown
        elif not prefix:
            yield from _flat(value, f"{key}.")
        else:
            yield prefix + key, f"{len(value)} settings, see --json"
