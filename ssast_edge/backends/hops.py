"""Runs a streaming ONNX model hop by hop: what it heard before is kept as keys and values.

Such a model computes the tokens of one hop and nothing again. Its graph has a second input, "past",
and says in its metadata of how many frames a hop is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

INPUT, LOGITS, EMBEDDING = "fbank", "logits", "embedding"
PAST, PRESENT = "past", "present"
HOP_FRAMES = "ssast_edge.hop_frames"  # key of the metadata


_SIZE = 0  # of a dimension that may be any, but is known
_INPUTS = ((INPUT, (1, _SIZE, _SIZE)), (PAST, (_SIZE, _SIZE)))
_OUTPUTS = (
    (LOGITS, (1, _SIZE)), (PRESENT, (_SIZE, _SIZE)), (EMBEDDING, (1, 1, _SIZE)),
)  # fmt: skip


class NotStreaming(ValueError):
    """A graph whose ports or metadata are no streaming model's; one line."""


def is_streaming(session: Any) -> bool:
    """Whether an open session's graph wants what came before."""
    return any(port.name == PAST for port in session.get_inputs())


class HopByHop:
    """A streaming graph in an open session of ONNX Runtime, and what it has heard so far.

    window_frames: what it starts from, and starts again from. Raises NotStreaming for a graph that
    does not fit them.
    """

    def __init__(self, session: Any, window_frames: int) -> None:
        """Check the ports; nothing has been heard."""
        self._session = session
        inputs, outputs = _shapes(session.get_inputs()), _shapes(session.get_outputs())
        text = session.get_modelmeta().custom_metadata_map.get(HOP_FRAMES, "")
        wanted = _OUTPUTS if EMBEDDING in outputs else _OUTPUTS[:2]
        fits = _fit(inputs, _INPUTS) and _fit(outputs, wanted)
        if not (fits and text.isdecimal() and len(text) < 6 and int(text) > 0):
            raise NotStreaming(
                f"no streaming model: it wants fbank (1, rows, bins) and past (context, width), "
                f"gives logits (1, labels), present (tokens, width) and perhaps embedding "
                f"(1, 1, width), all float, and has the metadata {HOP_FRAMES}; this one has inputs "
                f"{inputs}, outputs {outputs} and {text!r}"
            )
        _, self._rows, bins = inputs[INPUT]
        self._context, width = inputs[PAST]
        if outputs[PRESENT][1] != width:
            raise NotStreaming(
                f"a streaming model whose past and present are {width} and {outputs[PRESENT][1]} "
                "wide, and ought to be alike"
            )
        self.hop_frames = int(text)
        overlap = self._rows - self.hop_frames
        self._hops, left = divmod(window_frames - overlap, self.hop_frames)
        if overlap < 0 or left or self._hops < 1:
            raise NotStreaming(
                f"a streaming model of hops of {self.hop_frames} frames, cut from {self._rows}, "
                f"starts from {overlap} frames and whole hops, the bundle's window has "
                f"{window_frames}"
            )
        self.input_shape = (window_frames, bins)
        self.num_labels = outputs[LOGITS][1]
        self.embedding_shape = None
        if EMBEDDING in outputs:
            self.embedding_shape = (self._hops, outputs[EMBEDDING][2])
        # Each row is kept twice, `context` apart: wherever the ring is cut, the last `context` rows
        # lie in order in one contiguous view, and none is ever moved.
        self._ring = np.zeros((2 * self._context, width), np.float32)
        self._next = 0
        self._embedding = np.zeros(self.embedding_shape or (0, 0), np.float32)

    def infer(
        self, fbank: FloatArray, *, new_frames: int | None, embeds: bool = False
    ) -> FloatArray:
        """Logits, shape (labels,), after the window (frames, bins).

        new_frames: whole hops that came since the call before; None: a stream begins, of which the
        window is all that there is. embeds: `embedding` goes on with it. Raises ValueError for a
        part of a hop.
        """
        hops = self._hops
        if new_frames is None or new_frames > self.hop_frames * self._hops:
            self._ring[:] = 0
            self._next = 0
        else:
            hops, left = divmod(new_frames, self.hop_frames)
            if left or hops < 1:
                raise ValueError(
                    f"new_frames must be whole hops of {self.hop_frames}, got {new_frames}"
                )
        names = [LOGITS, PRESENT, EMBEDDING][: 3 if embeds else 2]
        logits: FloatArray
        for hop in range(hops, 0, -1):
            end = len(fbank) - (hop - 1) * self.hop_frames
            rows = fbank[np.newaxis, end - self._rows : end]
            past = self._ring[self._next : self._next + self._context]
            logits, present, *rest = self._session.run(names, {INPUT: rows, PAST: past})
            self._keep(present)
            if rest:
                self._embedding[:-1] = self._embedding[1:]
                self._embedding[-1] = rest[0][0, 0]
        last: FloatArray = logits[0]
        return last

    @property
    def embedding(self) -> FloatArray:
        """(segments, width) of the last hops that were heard with `embeds`; the caller's."""
        embedding: FloatArray = self._embedding.copy()
        return embedding

    def _keep(self, present: FloatArray) -> None:
        present = present[-self._context :]
        first = self._next
        for number in range(len(present)):
            place = (first + number) % self._context
            self._ring[place] = self._ring[place + self._context] = present[number]
        self._next = (first + len(present)) % self._context


def _shapes(ports: Sequence[Any]) -> dict[str, tuple[Any, ...]]:
    """By name; a type that is not float is put behind the sizes."""
    kinds = {"tensor(float)": ()}
    return {port.name: (*port.shape, *kinds.get(port.type, (port.type,))) for port in ports}


def _fit(
    found: Mapping[str, tuple[Any, ...]], wanted: Sequence[tuple[str, tuple[int, ...]]]
) -> bool:
    """Whether these are the ports, and no others, each of known sizes."""
    return found.keys() == dict(wanted).keys() and all(
        len(found[name]) == len(shape)
        and all(type(it) is int and it > 0 and size in (_SIZE, it)
                for it, size in zip(found[name], shape, strict=True))
        for name, shape in wanted
    )  # fmt: skip
