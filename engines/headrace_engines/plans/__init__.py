"""TensorRT plans: built from an ONNX file, ahead of serving."""
