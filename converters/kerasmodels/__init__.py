"""Keras' configs, weights and live models."""
