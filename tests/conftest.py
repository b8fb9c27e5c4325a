"""Settings of all tests."""

import contextlib

with contextlib.suppress(ImportError):
    from hypothesis import settings

    # A busy machine is no reason for an example to fail: nothing here is a test of speed.
    settings.register_profile("project", deadline=None)
    settings.load_profile("project")
