"""PyTorch's programs and modules as ONNX-like nodes."""
