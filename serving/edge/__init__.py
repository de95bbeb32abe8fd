"""Wire adapters: the only place that knows HTTP and gRPC.

`http` is the server (framing, limits, deadlines), `heads` what one request head means, `routes`
the table for everything that is not inference. `rest` is the inference port: `plans` and `exchange`
for inference, `catalogue` for the rest, described by `openapi`; `codec` the protocol's messages,
`facts` what both wires say of models, `compression` the content codings. `problems` is the one
table from error codes to statuses, `admin` the control port.

`grpc_server` is the other inference port, on the HTTP/2 of `http2_server`: `grpc_gate` finds a call or
refuses it by what `grpc_heads` reads, `grpc_calls` and `grpc_context` are calls that are answered at
once and calls that last, `grpc_framing` the messages in their bytes. `grpc_infer` and `grpc_stream` are
inference, `grpc_messages` and `grpc_layouts` its messages, `grpc_facts`, `grpc_health` and
`grpc_reflection` the rest, and `inference_pb2` the stubs of `inference.proto`. The wires share `codec`,
`facts` and `problems`.

An adapter decodes, calls one method of the layer below and encodes; no rule about models or callers
lives here.
"""
