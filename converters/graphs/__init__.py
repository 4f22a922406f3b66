"""One walk of ONNX-like nodes, which every graph source becomes, to the layers of a network."""
