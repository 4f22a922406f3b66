"""Bit-packed XNOR-popcount inference for binarized neural networks."""
