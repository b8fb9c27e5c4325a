"""The errors that a user can cause at run time.

Each message is one line that says what was found, what was wanted and what to do. A mistake
in calling this library (a wrong array shape, say) is a plain ValueError.
"""


def one_line(text: str) -> str:
    """`text` as one printable line: what a file or its name says must not move the cursor."""
    shown = (c if c.isprintable() else " " if c.isspace() else _escaped(c) for c in text)
    return " ".join("".join(shown).split())


class SsastEdgeError(Exception):
    """Base of every error that a user, a file or a device can cause."""

    def __str__(self) -> str:
        """The message, one line whatever was put into it."""
        return one_line(super().__str__())


class BundleError(SsastEdgeError):
    """A model bundle is missing, altered, malformed or not for this version."""


class AudioError(SsastEdgeError):
    """An audio file cannot be read, or an audio device cannot be opened or has gone."""


class BackendMissing(SsastEdgeError):
    """The library that runs the model is not installed, or no model in the bundle fits it."""


class EngineError(SsastEdgeError):
    """A TensorRT engine is missing, does not fit this machine, or cannot be built or run."""


class DetectorError(SsastEdgeError):
    """Another detector, run for comparison, cannot be run or does not keep to the protocol."""


class CudaError(SsastEdgeError):
    """The GPU, its driver or its memory failed."""


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
