"""`ssast-edge listen`: keywords in live audio, in a file or in a pipe."""

from typing import Any

import click
from click.core import ParameterSource

from ssast_edge.commands.interrupts import ended_by_signal, held_signals
from ssast_edge.commands.options import (
    backend_options,
    bundle_options,
    channel_option,
    device_option,
    model_options,
    parse_thresholds,
    trigger_thresholds,
)


@click.command()
@bundle_options
@backend_options
@click.option(
    "--input",
    metavar="FILE|-",
    help="An audio file of any format; - is raw 16-bit PCM or a WAV on standard input.",
)
@device_option
@channel_option
@click.option(
    "--keyword", "keywords", multiple=True, metavar="KEYWORD", help="Only this; may be repeated."
)
@click.option(
    "--threshold",
    "thresholds",
    metavar="[KEYWORD=]X",
    callback=parse_thresholds,
    multiple=True,
    help="Score in (0, 1) that fires, for one keyword or all.  [default: the bundle's]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--realtime", is_flag=True, help="Play --input no faster than it was recorded.")
@click.option(
    "--input-rate",
    type=click.IntRange(1000, 768_000),
    metavar="HZ",
    default=16_000,
    show_default=True,
    help="Sample rate of raw PCM, Hz.",
)
@click.option(
    "--input-channels",
    type=click.IntRange(1, 64),
    metavar="N",
    default=1,
    show_default=True,
    help="Channels of raw PCM.",
)
@ended_by_signal()
def listen(
    bundle: str,
    hop_ms: int | None,
    threads: int,
    backend: str | None,
    precision: str,
    rebuild: bool,
    keywords: tuple[str, ...],
    thresholds: list[tuple[str | None, float]],
    as_json: bool,
    **source_options: Any,
) -> None:
    """Report spoken keywords, each with its audio time and score.

    From a microphone, or from --input as fast as it can be read. Ctrl-C ends it. rtf in the
    summary is the processing time per second of audio.
    """
    from ssast_edge.bundle import load_bundle
    from ssast_edge.commands.listening import NOTHING_HEARD, listen_to
    from ssast_edge.commands.output import open_output, tell_summary
    from ssast_edge.commands.source import SourceConfig, open_source
    from ssast_edge.spotter import Spotter

    _refuse_what_would_be_ignored(source_options["input"])
    how = model_options(backend=backend, precision=precision, threads=threads, rebuild=rebuild)
    has_begun = False
    try:
        model, config = load_bundle(bundle), SourceConfig(**source_options)
        limits = trigger_thresholds(model, keywords, thresholds)
        with held_signals():
            spotter = Spotter(
                model,
                hop_ms=hop_ms,
                keywords=keywords or None,
                thresholds=limits,
                **how,
                on_scores=lambda time_s, _: output.hop(time_s, spotter),
            )
        with (
            open_source(config, model.fbank.sample_rate) as source,
            open_output(
                as_json=as_json,
                title=f"{source.name} ({model.name})",
                thresholds=limits,
                is_endless=config.input is None,
            ) as output,
        ):
            has_begun = True
            listen_to(source, spotter, output)
    except KeyboardInterrupt:
        if not has_begun:  # `listen_to` sums up by itself
            tell_summary(NOTHING_HEARD, as_json=as_json)


def _refuse_what_would_be_ignored(source: str | None) -> None:
    """Raise click.UsageError for --input-rate or --input-channels of what says its own."""
    context = click.get_current_context()
    for name in ("input_rate", "input_channels"):
        is_given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if is_given and source != "-":
            option = name.replace("_", "-")
            raise click.UsageError(f"--{option} is of raw PCM: give it with --input -")
