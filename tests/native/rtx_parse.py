"""Run as a process of its own: TensorRT for RTX parses and builds an ONNX file without a GPU.

python rtx_parse.py MODEL.onnx FOLDER [PLUGIN.so]: one JSON object. The parser can abort, hence the
process; FOLDER, on LD_LIBRARY_PATH, gets the unversioned library names that it looks for.
"""

import collections
import ctypes
import json
import sys
from pathlib import Path

import onnxruntime_ep_nv_tensorrt_rtx


def main(model: str, links: str, plugin: str = "") -> None:
    """Parse, build for SM86, and print what came of it."""
    folder = Path(onnxruntime_ep_nv_tensorrt_rtx.__file__).parent
    real = next(folder.glob("libtensorrt_rtx.so.*"))
    for name in ("libtensorrt_rtx.so", "libtensorrt_rtx.so.1"):
        (Path(links) / name).symlink_to(real)
    for library in (real, next(folder.glob("libtensorrt_onnxparser_rtx.so.*"))):
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    import tensorrt_rtx_bindings as trt

    lines = []

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: object, line: str) -> None:
            lines.append(line)

    logger = Logger()
    builder = trt.Builder(logger)
    if plugin:
        trt.get_plugin_registry().load_library(plugin)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    found: dict[str, object] = {"parsed": parser.parse(Path(model).read_bytes())}
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    found["errors"] = [f"{error.node_operator()}: {error.desc()}" for error in errors]
    if found["parsed"]:
        layers = (network.get_layer(i).type.name for i in range(network.num_layers))
        found["layers"] = dict(collections.Counter(layers))
        for layer in (network.get_layer(i) for i in range(network.num_layers)):
            if layer.type == trt.LayerType.PLUGIN_V3:
                found["plugin"] = {
                    "inputs": [layer.get_input(i).dtype.name for i in range(layer.num_inputs)],
                    "outputs": [layer.get_output(i).dtype.name for i in range(layer.num_outputs)],
                }
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)
        first = network.get_input(0)
        if first.shape[0] == -1:
            profile = builder.create_optimization_profile()
            profile.set_shape(first.name, *((n, *first.shape[1:]) for n in (1, 4, 8)))
            config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        found["plan"] = None if plan is None else bytes(plan)[:4].decode()
        found["named"] = plan is not None and b"FusedPatchEmbed" in bytes(plan)
    found["log"] = [line for line in lines if "ssast" in line or "FusedPatchEmbed" in line]
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
