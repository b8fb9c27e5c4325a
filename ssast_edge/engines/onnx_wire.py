"""Reads and changes the few fields of an ONNX file that a device needs, without the onnx package.

An ONNX file is a protobuf message: fields, each a number, a wire type and a value. Only the
framing is read; values are copied as they are. Field numbers are those of onnx.proto.
"""

from collections.abc import Iterator

_MODEL_GRAPH = 7
_MODEL_FUNCTIONS = 25
_GRAPH_NODE = 1
_NODE_OP_TYPE = 4
_NODE_DOMAIN = 7

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class NotOnnx(ValueError):
    """The bytes are no protobuf message."""


def strip_functions(model: bytes) -> bytes:
    """The model without its model-local functions.

    TensorRT then asks for our plugin; versions before 10.7 would prefer the function.
    """
    kept = [
        model[start:end]
        for number, start, _, end in _fields(model, 0, len(model))
        if number != _MODEL_FUNCTIONS
    ]
    return b"".join(kept)


def node_types(model: bytes) -> set[tuple[str, str]]:
    """(domain, operator) of the nodes of the main graph."""
    found = set()
    for number, _, graph, graph_end in _fields(model, 0, len(model)):
        if number != _MODEL_GRAPH:
            continue
        for field, _, node, node_end in _fields(model, graph, graph_end):
            if field != _GRAPH_NODE:
                continue
            texts = {
                key: model[value:end].decode("utf-8", "replace")
                for key, _, value, end in _fields(model, node, node_end)
                if key in (_NODE_OP_TYPE, _NODE_DOMAIN)
            }
            found.add((texts.get(_NODE_DOMAIN, ""), texts.get(_NODE_OP_TYPE, "")))
    return found


def has_functions(model: bytes) -> bool:
    """Whether the model holds model-local functions."""
    return any(number == _MODEL_FUNCTIONS for number, *_ in _fields(model, 0, len(model)))


def _fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number of each field, where it starts, where its value starts, where it ends."""
    while start < end:
        tag, value = _varint(data, start, end)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            _, stop = _varint(data, value, end)
        elif wire == _FIXED64:
            stop = value + 8
        elif wire == _FIXED32:
            stop = value + 4
        elif wire == _BYTES:
            size, value = _varint(data, value, end)
            stop = value + size
        else:
            raise NotOnnx(f"not an ONNX file: wire type {wire} at byte {start}")
        if number == 0 or stop > end:
            raise NotOnnx(f"not an ONNX file, or a part of one: broken field at byte {start}")
        yield number, start, value, stop
        start = stop


def _varint(data: bytes, start: int, end: int) -> tuple[int, int]:
    """The number, and where it ends."""
    number = 0
    for shift, position in enumerate(range(start, min(end, start + 10))):
        byte = data[position]
        number |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return number, position + 1
    raise NotOnnx(f"not an ONNX file, or a part of one: broken number at byte {start}")
