"""From the float network to the packed one and its file: folding, canonical form, bits."""
