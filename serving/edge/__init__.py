"""Wire adapters: the only place that knows HTTP and gRPC.

`http` is the server (framing, limits, deadlines), `heads` what one request head means, `routes`
the table for everything that is not inference. `rest` is the inference port: `plans` and `exchange`
for inference, `catalogue` for the rest, described by `openapi`; `codec` the protocol's messages,
`facts` what both wires say of models, `compression` the content codings. `problems` is the one
table from error codes to statuses, `admin` the control port.

`grpc_server` is the other inference port: `grpc_gate` finds a call or refuses it, `grpc_infer` and
`grpc_stream` are inference, `grpc_messages` its messages, `grpc_facts` and `grpc_health` the rest, and
`inference_pb2` the stubs of `inference.proto`. The wires share `codec`, `facts` and `problems`.

An adapter decodes, calls one method of the layer below and encodes; no rule about models or callers
lives here.
"""
