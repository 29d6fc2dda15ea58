"""Fixtures that tests of several packages share live in tests/support, one module a subject."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))

pytest_plugins = ["consul_agent", "digits", "onnx_models", "pki"]
