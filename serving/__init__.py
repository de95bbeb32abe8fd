"""A model-serving gateway: speed, accountability, isolation.

Requests in the Open Inference Protocol are authenticated, batched, run on ONNX models that Ray
Serve places and heals, written to a durable log, and only then answered. Start reading at
`serving.gateway.pipeline` (a request's way) or `serving.app` (how the processes are wired).
"""
