"""The errors that a user can cause at run time.

Each message is one line that says what was found, what was wanted and what to do. A mistake
in calling this library (a wrong array shape, say) is a plain ValueError.
"""


class SsastEdgeError(Exception):
    """Base of every error that a user, a file or a device can cause."""


class BundleError(SsastEdgeError):
    """A model bundle is missing, altered, malformed or not for this version."""


class AudioError(SsastEdgeError):
    """An audio file cannot be read, or an audio device cannot be opened or has gone."""


class BackendMissing(SsastEdgeError):
    """The library that runs the model is not installed, or no model in the bundle fits it."""
