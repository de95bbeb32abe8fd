"""HTTP/2 (RFC 9113): the server under the port of gRPC.

`server` listens and keeps count, `connection` is one client's table of states and all that is written to
it, `reading` what its frames mean, `streams` what the application sees of one request. `frames` are the
bytes, `fields` the blocks of fields (HPACK) and the heads they make, known by their bytes; `patience` is
what a client may make us do before it is cut off. An application makes a `streams.Receiver` of each
request, and answers on its `Stream`; it knows no sockets, and nothing here knows gRPC.
"""
