"""TensorRT engines: built from a bundle on the machine that runs them, and kept in a cache.

`build.py` is what others call; TensorRT itself runs in `worker.py`, a process of its own. Which
engine a bundle runs with is for `ssast_edge.backends` to say.
"""
