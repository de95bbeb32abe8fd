"""The data plane inside a gateway worker, in the order of a request's path.

`pipeline` tells the story; `admission` says who may come in, `routing` which version answers,
`batching` gathers rows into frames, `replicas` keeps the connections, `shadowing` mirrors what was
answered, `snapshots` follows the control plane. Everything runs on one event loop and nothing here
knows HTTP, Ray, ONNX or files: the wire, the frame channel and the log are handed in.
"""
