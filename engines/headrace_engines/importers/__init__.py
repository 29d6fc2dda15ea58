"""From a trained model to ONNX, one module a source format."""
