"""A deployable model: one folder that describes itself, checked before anything runs.

`bundle.json` names the task, labels, front end, window, hop, triggers, model files, origin
and licences, and the size and SHA-256 of every other file. A small golden input and output
let the runtime prove that the model here gives the numbers of the model that was trained.
Nothing in a bundle is ever unpickled. Knows nothing of how a model is run.
"""

from ssast_edge.bundle.contents import GOLDEN_TOLERANCE, MANIFEST, Bundle, ModelFile, check_hop
from ssast_edge.bundle.golden import replay_golden
from ssast_edge.bundle.labels import resolve_label, same_label
from ssast_edge.bundle.reading import default_bundles, is_shipped, load_bundle
from ssast_edge.bundle.writing import bundle_parts, rewrite_bundle, write_bundle

__all__ = [
    "GOLDEN_TOLERANCE",
    "MANIFEST",
    "Bundle",
    "ModelFile",
    "bundle_parts",
    "check_hop",
    "default_bundles",
    "is_shipped",
    "load_bundle",
    "replay_golden",
    "resolve_label",
    "rewrite_bundle",
    "same_label",
    "write_bundle",
]
