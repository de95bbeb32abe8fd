import pytest

from serving.inference.causes import cause_of

SERVES_MESSAGE = """The deployment failed to start 2 times in a row. Error:
ray::ServeReplica:m:x@1~0:replica.initialize_and_get_metadata() (pid=7, ip=127.0.0.1)
  File "ray/serve/_private/replica.py", line 1951, in initialize
    raise RuntimeError(traceback.format_exc()) from None
RuntimeError: Traceback (most recent call last):
  File "serving/inference/session.py", line 176, in _read
    raise ArtifactInvalid(
serving.errors.ArtifactInvalid: x@1: model.onnx has the SHA-256 00, not 11
"""


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        (SERVES_MESSAGE, "x@1: model.onnx has the SHA-256 00, not 11"),
        ("Traceback\n  File x\nKeyError: 'y'\n\n", "KeyError: 'y'"),
        ("", "no reason given"),
    ],
)
def test_cause_is_the_one_line_that_an_operator_needs(message: str, cause: str) -> None:
    """Our own error out of Serve's tracebacks; else whatever was said last."""
    assert cause_of(message) == cause
