"""A packed network for other programs: plain arrays, C."""
