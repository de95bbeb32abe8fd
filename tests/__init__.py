"""The test suite. `python3 -m tests` runs all of it from a bare clone; see `tests/__main__.py`."""
