"""MXNet's symbols as ONNX-like nodes."""
