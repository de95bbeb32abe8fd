"""Wire adapters: the only place that knows HTTP.

`http` is the server (framing, limits, deadlines), `heads` what one request head means, `routes`
the table for everything that is not inference, `rest` and `codec` the Open Inference Protocol,
`problems` the one table from error codes to statuses, `admin` the control port. An adapter decodes,
calls one method of the layer below and encodes; no rule about models or callers lives here.
"""
