"""Wire adapters: the only place that knows HTTP and gRPC.

Four packages: `http1` is the server under every port but one, `http2` the one under `grpc`, which is the
inference port's other wire, and `admin` the routes of the control port. The modules here are the
inference port over REST, and what the wires share.

`rest` is the application of that port: `plans` and `exchange` for inference, `catalogue` and
`outcomes` for the rest, described by `openapi`. `routes` is the table for everything that is not
inference. `codec` has the protocol's messages, `facts` what both wires say of models, `compression` the
content codings, `problems` the one table from error codes to statuses. `connections` is what both
servers do with the connections of a port; where it has `tls`, `handshake` is what comes before, and `unread`
what a client does not take.

An adapter decodes, calls one method of the layer below and encodes; no rule about models or callers
lives here.
"""
