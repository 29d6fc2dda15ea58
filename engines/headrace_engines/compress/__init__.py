"""Smaller and faster artefacts from the same model."""
