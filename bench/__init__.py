"""Measures the server beside what else could stand in its place: `python -m bench` in a checkout's root."""
