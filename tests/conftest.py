"""What all tests share: how Hypothesis draws its examples."""

import os

from hypothesis import settings

# No deadline per example: machines that run tests are busy, and each test has a timeout anyway. In CI
# the examples are the same at every run, so that a red run is about the change.
settings.register_profile("developer", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "developer")
