"""The models that are served: where they come from, and how they stand."""
