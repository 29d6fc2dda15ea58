"""The way of a request between a transport and an engine: no I/O, no asyncio.

Only `worker` has a thread and a clock. A transport hands in a `Request` and a `Sink`; what comes back
goes through the sink, from the engine's thread.
"""
