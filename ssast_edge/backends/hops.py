"""Runs a streaming ONNX model hop by hop: what it heard before is kept as keys and values.

Such a model computes the tokens of one hop and nothing again. Its graph has a second input, "past",
and says in its metadata of how many frames a hop is.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

INPUT, LOGITS, EMBEDDING = "fbank", "logits", "embedding"
PAST, PRESENT = "past", "present"
HOP_FRAMES = "ssast_edge.hop_frames"  # key of the metadata


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
        inputs = {port.name: tuple(port.shape) for port in session.get_inputs()}
        outputs = {port.name: tuple(port.shape) for port in session.get_outputs()}
        text = session.get_modelmeta().custom_metadata_map.get(HOP_FRAMES, "")
        sizes = [*inputs.get(INPUT, ()), *inputs.get(PAST, ()), *outputs.get(PRESENT, ())]
        are_known = all(isinstance(size, int) and size > 0 for size in sizes)
        if not (text.isdecimal() and int(text) > 0 and len(sizes) == 7 and are_known):
            raise NotStreaming(
                f"no streaming model: it wants fbank (1, rows, bins), past (context, width), "
                f"present (tokens, width) and the metadata {HOP_FRAMES}, and has inputs {inputs}, "
                f"outputs {outputs} and {text!r}"
            )
        _, self._rows, bins, self._context, width, self._tokens, present_width = sizes
        self.hop_frames = int(text)
        overlap = self._rows - self.hop_frames
        self._hops, left = divmod(window_frames - overlap, self.hop_frames)
        if overlap < 0 or left or self._hops < 1 or width != present_width:
            raise NotStreaming(
                f"a streaming model of hops of {self.hop_frames} frames, cut from {self._rows}, "
                f"starts from {overlap} frames and whole hops, the bundle's window has "
                f"{window_frames}"
            )
        self.input_shape = (window_frames, bins)
        self.num_labels = int(outputs[LOGITS][-1]) if LOGITS in outputs else 0
        self.embedding_shape = None
        if EMBEDDING in outputs:
            self.embedding_shape = (self._hops, int(outputs[EMBEDDING][-1]))
        # Each row is kept twice, `context` apart: wherever the ring is cut, the last `context` rows
        # lie in order in one contiguous view, and none is ever moved.
        self._ring = np.zeros((2 * self._context, width), np.float32)
        self._next = 0
        self._embedding = np.zeros(self.embedding_shape or (0, 0), np.float32)

    def infer(
        self, fbank: FloatArray, *, new_frames: int | None, embeds: bool = False
    ) -> tuple[FloatArray, FloatArray]:
        """Logits (labels,) after the window (frames, bins), and its embedding (segments, width).

        new_frames: whole hops that came since the call before; None: a stream begins, of which the
        window is all that there is. embeds: else the embedding is not computed anew. Raises
        ValueError for a part of a hop.
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
        return logits[0], self._embedding.copy()

    def _keep(self, present: FloatArray) -> None:
        present = present[-self._context :]
        first = self._next
        for number in range(len(present)):
            place = (first + number) % self._context
            self._ring[place] = self._ring[place + self._context] = present[number]
        self._next = (first + len(present)) % self._context
