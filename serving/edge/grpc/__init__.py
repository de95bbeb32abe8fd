"""The inference port over gRPC, on our own HTTP/2.

`server` is the port. `gate` finds a call or refuses it by what `heads` reads, with `refusals` for how long
that takes and `problems` for what is said; `calls` and `context` are calls that are answered at once and
calls that last, `framing` the messages in their bytes. `infer` and `stream` are inference, `messages` and
`layouts` its messages, `facts`, `health` and `reflection` the rest, and `inference_pb2` the stubs of
`inference.proto` (`python -m tests.wire.stubs`).

A unary call is served in the callback in which its message is complete: no task, future or coroutine.
The library `grpc` lends its codes, health and reflection their messages; nothing of its server runs.
"""
