"""What is wrong with recordings that a word is to be learned from."""

from ssast_edge.errors import SsastEdgeError


class EnrollmentError(SsastEdgeError):
    """A word cannot be learned from these recordings, or has no place in the bundle."""
