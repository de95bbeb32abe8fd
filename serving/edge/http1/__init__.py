"""HTTP/1.1: the server under every port but that of gRPC.

`server` listens and keeps count, `connection` is one client's table of states, `heads` what a head means
(parsed once, then known by its bytes), `bodies` and `chunked` how a body comes in. An application is a
function of a head, a whole bounded body and a `connection.Responder`: it is called once per request, on
the event loop, and answers then or later. It knows no sockets, and nothing here knows models or callers.
"""
