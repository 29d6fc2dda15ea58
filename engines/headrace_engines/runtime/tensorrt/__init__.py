"""TensorRT, and TensorRT for RTX: plans executed on the GPU."""
