"""`ssast-edge build`: TensorRT engines from a bundle, on the machine that is to run them."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ssast_edge.bundle import Bundle, ModelFile
    from ssast_edge.engines.build import BuildOptions, BuildProgress

_PRECISIONS = ("auto", "fp32", "fp16", "int8", "all")
_REFRESH_S = 0.1
_COLUMNS = 79
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("bundle")
@click.option(
    "--precision",
    type=click.Choice(_PRECISIONS),
    default="auto",
    show_default=True,
    help="Which of the bundle's models; auto is its first for TensorRT.",
)
@click.option(
    "--out", type=_FILE, metavar="FILE", help="The engine's file.  [default: in the cache folder]"
)
@click.option(
    "--plugin", type=_FILE, metavar="LIB", help="Plugin library.  [default: the package's own]"
)
@click.option("--no-plugin", is_flag=True, help="Run the patch embedding as ordinary layers.")
@click.option(
    "--workspace",
    type=click.IntRange(1),
    metavar="MB",
    help="Memory for TensorRT's scratch, MB.  [default: TensorRT's limit]",
)
@click.option(
    "--timing-cache",
    type=_FILE,
    metavar="FILE",
    help="What TensorRT measured before, kept for the next build.  [default: in the cache folder]",
)
@click.option(
    "--compute-capability",
    metavar="X.Y",
    default="",
    help="TensorRT for RTX only: build for such a GPU, which need not be here.",
)
@click.option("--rebuild", is_flag=True, help="Also when an engine that fits is there.")
def build(
    bundle: str,
    precision: str,
    out: Path | None,
    plugin: Path | None,
    no_plugin: bool,
    workspace: int | None,
    timing_cache: Path | None,
    compute_capability: str,
    rebuild: bool,
) -> None:
    """Build TensorRT engines of BUNDLE, a name or a folder, for this machine.

    Each engine's file is printed; its manifest lies beside it. Seconds on a desktop, minutes on a
    Jetson.
    """
    from ssast_edge.bundle import load_bundle
    from ssast_edge.engines.build import BuildOptions
    from ssast_edge.engines.cache import choose_model, tensorrt_models

    if plugin and no_plugin:
        raise click.UsageError("--plugin and --no-plugin exclude each other")
    if out and precision == "all":
        raise click.UsageError("--out names one engine: give one --precision")
    source = load_bundle(bundle)
    try:
        options = BuildOptions(
            out=out,
            plugin=plugin,
            use_plugin=not no_plugin,
            workspace_mb=workspace or 0,
            timing_cache=timing_cache,
            compute_capability=compute_capability,
            rebuild=rebuild,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    is_all = precision == "all"
    for model in tensorrt_models(source) if is_all else (choose_model(source, precision),):
        with shown_progress(f"{source.name} {model.precision}") as show:
            path = _built(source, model, options, show)
        click.echo(str(path))
        click.echo(describe_engine(path), err=True)


def _built(
    source: "Bundle",
    model: "ModelFile",
    options: "BuildOptions",
    show: Callable[["BuildProgress"], None],
) -> Path:
    from ssast_edge.engines.build import build_engine
    from ssast_edge.engines.tensorrt_library import load_tensorrt
    from ssast_edge.errors import CudaError

    try:
        return build_engine(source, model, options, show)
    except CudaError as error:
        library = load_tensorrt()
        if options.compute_capability or library.flavour != "rtx":
            raise
        raise CudaError(
            f"{error}; {library.title} builds for a GPU elsewhere with --compute-capability"
        ) from error


def describe_engine(path: Path) -> str:
    """One line for people: what was built, with what, for what."""
    from ssast_edge.engines.manifest import read_manifest
    from ssast_edge.engines.tensorrt_library import TITLES

    manifest = read_manifest(path)
    embedded = {
        "plugin": "with our plugin",
        "function": "without our plugin, whose work ordinary layers do",
        "layers": "without our plugin, which this graph has no node for",
    }
    return (
        f"{manifest.precision}, {manifest.engine.bytes / 1e6:.1f} MB, {manifest.build_s:.1f} s, "
        f"{TITLES[manifest.flavour]} {manifest.tensorrt_version} for "
        f"{manifest.gpu or 'any GPU'} of compute capability {manifest.compute_capability}, "
        f"{embedded[manifest.patch_embed]}"
    )


@contextmanager
def shown_progress(title: str) -> Iterator[Callable[["BuildProgress"], None]]:
    """Takes progress; on a terminal it stands in one line of stderr, which is gone at the end."""
    if not (sys.stderr and sys.stderr.isatty()):
        yield lambda progress: None
        return
    shown_s = 0.0

    def show(progress: "BuildProgress") -> None:
        nonlocal shown_s
        now_s = monotonic()
        if now_s - shown_s < _REFRESH_S:
            return
        shown_s = now_s
        share = 100 * progress.step // max(1, progress.steps)
        click.echo(
            f"\r\x1b[2K{title}: {share:3d} % {progress.phase}"[:_COLUMNS], nl=False, err=True
        )

    try:
        yield show
    finally:
        click.echo("\r\x1b[2K", nl=False, err=True)
