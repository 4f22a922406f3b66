"""TensorFlow's graphs as ONNX-like nodes."""
