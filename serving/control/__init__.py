"""The control plane: what should run, what runs, and what gateways are told about it.

`desired` turns settings and the model catalogue into plans, the `reconciler` makes an engine fit
them step by step, `endpoints` keeps the leases of replicas, `publisher` hands out snapshots, `plane`
is all of that behind the control port. Nothing on a request's path waits for any of it.
"""
