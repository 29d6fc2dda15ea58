"""The protocol: messages, stubs, service names, and tensors on the wire."""

__version__ = "0.1.0"
