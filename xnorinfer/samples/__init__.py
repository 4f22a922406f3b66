"""Inputs that people have: arrays, tables, images."""
