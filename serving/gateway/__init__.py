"""The data plane inside a gateway worker, in the order of a request's path.

`pipeline` tells the story; `admission` says who may come in (`memory`: as long as there is room),
`routing` which version answers, `batching` gathers rows into frames (`forming`), in an order that
`queueing` and `lanes` decide and at a pace that `pace` learns, `replicas` keeps the connections,
`shadowing` mirrors what was answered, `snapshots` follows the control plane; `quotas` say how much a
caller may use, from `buckets` that all workers of a node share. Everything runs on one event loop and
nothing here knows HTTP, Ray or ONNX: the wire, the frame channel and the log are handed in.
"""
