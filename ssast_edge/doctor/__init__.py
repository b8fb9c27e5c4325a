"""Says whether `listen` would work on this machine, and what to type where it would not.

`checks.py` lists the checks, `examination.py` runs them in processes of their own, each with a
time limit: drivers may hang or crash.
"""
