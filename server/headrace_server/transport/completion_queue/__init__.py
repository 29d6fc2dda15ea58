"""The transport on the completion queue of gRPC's C core, which grpcio's own servers are made of.

`cygrpc` is private to grpcio, and a wrong call into it ends the process. So only `core` touches it, and
`support` looks at it first, without a call. What is said here as a rule was found by trying.
"""
