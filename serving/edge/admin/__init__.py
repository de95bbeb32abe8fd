"""The routes of the control port, a module for each desk, and of every process's introspection socket.

`control` has the door (who asks) and what our own processes need; `registry`, `governance`, `rollout`,
`traffic`, `upload`, `verdict`, `audit`, `access`, `privacy` and `reports` are parts of one table,
described by `openapi`. A route makes a call of a request (`calls`, `actors`, `queries`), has a desk of the
control plane carry it out on the plane's own thread, and makes a reply of the answer; what an order
means and who may give it is decided there and in `serving.access.permissions`.
"""
