"""From a trained model to something that executes batches: importers, compression, gates, runtimes."""

import os

# ONNX Runtime collects telemetry from its import on: a device id and events in files, and a host of its
# maker's that they are sent to. Its own function to switch that off comes too late, so this stands where
# every import of it passes first; who sets the variable decides.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # noqa: TID251  # a library's switch, no setting of ours
