"""`ssast-edge enroll`: a new keyword from a few recordings, on this device."""

import math
from pathlib import Path

import click

from ssast_edge.commands.options import (
    DEFAULT_BUNDLE,
    backend_options,
    device_option,
    model_options,
)

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("name")
@click.argument("clips", nargs=-1, type=_FILE, metavar="CLIP...")
@click.option(
    "--bundle",
    default=DEFAULT_BUNDLE,
    show_default=True,
    metavar="NAME|DIR",
    help="The model to teach: one that ships with ssast-edge, or a bundle's folder.",
)
@click.option(
    "--out",
    type=_FOLDER,
    metavar="DIR",
    help="Where the bundle with the word goes.  [default: the bundle's own folder, replaced]",
)
@click.option(
    "--record", type=click.IntRange(1), metavar="N", help="Record N times from the microphone."
)
@device_option
@click.option(
    "--keep", type=_FOLDER, metavar="DIR", help="Keep what --record recorded, as WAV, in DIR."
)
@click.option(
    "--false-accepts",
    type=click.FloatRange(0.01, 100),
    default=1.0,
    show_default=True,
    metavar="X",
    help="False accepts per hour of speech that the threshold is chosen for.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Also when a keyword sounds alike, from fewer CLIPs than before, or over other words.",
)
@click.option("--remove", is_flag=True, help="Take the word NAME out instead.")
@click.option("--threads", type=click.IntRange(1, 64), default=1, metavar="N", help="CPU threads.")
@backend_options
def enroll(
    name: str,
    clips: tuple[Path, ...],
    bundle: str,
    out: Path | None,
    record: int | None,
    device: str | None,
    keep: Path | None,
    false_accepts: float,
    force: bool,
    remove: bool,
    threads: int,
    backend: str | None,
    precision: str,
    rebuild: bool,
) -> None:
    """Teach a bundle the keyword NAME from 3 to 10 CLIPs that hold it once and nothing else.

    Nothing is trained and no recording is stored. `listen`, `tag`, `eval` and `calibrate` take the
    bundle as any other.
    """
    from ssast_edge.bundle import load_bundle
    from ssast_edge.commands.enrolling import (
        Wishes,
        check_kept,
        enroll_word,
        recorded,
        remove_name,
        target,
    )

    if remove and (clips or record):
        raise click.UsageError("--remove takes a NAME alone")
    if not remove and bool(clips) == bool(record):
        raise click.UsageError("give CLIPs, or --record N")
    if math.isnan(false_accepts):  # which a range lets through
        raise click.UsageError("--false-accepts is a number of an hour, got nan")
    if keep is not None and record is None:
        raise click.UsageError("--keep is for --record")
    model = load_bundle(bundle)
    folder = target(model, out)
    if not force:
        check_kept(model, folder, name)
    if remove:
        remove_name(model, folder, name)
        return
    wishes = Wishes(name=name, false_accepts_per_hour=false_accepts, is_forced=force)
    how = model_options(backend=backend, precision=precision, threads=threads, rebuild=rebuild)
    spoken = recorded(model, name, record, device, keep) if record else clips
    enroll_word(model, folder, wishes, spoken, how)
