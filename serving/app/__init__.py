"""The composition root: the processes of the product and what each of them is made of.

`serving up` is the supervisor. It starts, watches, respawns and stops its children:

    supervisor ─┬─ head        owns the embedded Ray cluster (not with engine=local or ray.address)
                ├─ control     deploys model versions, keeps leases, publishes snapshots
                └─ gateway-N   one event loop each; authenticates, batches, records, answers

A child is `python -m serving.app.<head|control|worker> --settings FILE`, so each can be killed and
started again alone: gateways go on with their last snapshot while control is away, and control
finds its replicas running when it returns, because the head owns them.
"""
