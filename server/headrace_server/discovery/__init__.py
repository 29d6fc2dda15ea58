"""Telling a registry where this server is, and that it is alive."""
