"""Checks of the model: ONNX Runtime, the bundle's files, and its golden output on this machine."""

from collections.abc import Iterator
from time import perf_counter

from ssast_edge.backends import Backend, Choice, next_hop, open_backend
from ssast_edge.bundle import Bundle, load_bundle
from ssast_edge.doctor.finding import Check, Finding, Options, Skipped, ok, warning
from ssast_edge.errors import SsastEdgeError

OLDEST_ONNXRUNTIME = (1, 17)
_TIMED = 5  # inferences; the fastest is shown


def check_onnxruntime(options: Options) -> Iterator[Finding]:
    """Version and providers; whether it is needed, the model decides."""
    try:
        import onnxruntime
    except ImportError as error:
        yield warning(f"cannot be imported ({error})", "pip install onnxruntime")
        return
    version = onnxruntime.__version__
    text = f"{version}, providers: {', '.join(onnxruntime.get_available_providers())}"
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_ONNXRUNTIME:
        oldest = ".".join(map(str, OLDEST_ONNXRUNTIME))
        yield warning(f"{text}: older than {oldest}", f"pip install 'onnxruntime>={oldest}'")
    else:
        yield ok(text)


def check_bundle(options: Options) -> Iterator[Finding]:
    """Every file of it, against its manifest."""
    bundle = load_bundle(options.bundle)
    held = ", ".join(f"{model.backend} {model.precision}" for model in bundle.models)
    yield ok(f"{bundle.name} {bundle.version} in {bundle.path}: {held}")


def check_model(options: Options) -> Iterator[Finding]:
    """What `listen` would run, against its golden output."""
    bundle = load_bundle(options.bundle)
    chosen: list[Choice] = []
    backend = open_backend(
        bundle, kind=options.backend, precision=options.precision, on_choice=chosen.append
    )
    why = f" ({choice.reason})" if (choice := chosen[0]).is_notable else ""
    try:
        yield ok(f"{backend.name}{why}: gives its golden output, {_timing(backend, bundle)}")
    finally:
        backend.close()


def check_other_models(options: Options) -> Iterator[Finding]:
    """The models that `listen` would not choose by itself."""
    bundle = load_bundle(options.bundle)
    others = [model for model in bundle.models if model.backend == "onnx"]
    if len(others) < 2:
        raise Skipped("the bundle holds no other for ONNX Runtime")
    for model in others:
        name = f"{model.backend} ({model.precision})"
        try:
            backend = open_backend(bundle, kind=model.backend, precision=model.precision)
        except SsastEdgeError as error:
            yield warning(str(error), f"do without --precision {model.precision}")
            continue
        yield ok(f"{name}: gives its golden output, {_timing(backend, bundle)}")
        backend.close()


def _timing(backend: Backend, bundle: Bundle) -> str:
    times_s = []
    infer = next_hop(backend, bundle.golden.fbank)
    for _ in range(_TIMED):
        began_s = perf_counter()
        infer()
        times_s.append(perf_counter() - began_s)
    return f"{1000 * min(times_s):.1f} ms every {bundle.hop_ms} ms"


CHECKS = (
    Check("ONNX Runtime", check_onnxruntime),
    Check("bundle", check_bundle, decides=True),
    Check("inference", check_model, limit_s=60, decides=True, needs="bundle"),
    Check("other models", check_other_models, limit_s=60, needs="bundle"),
)
