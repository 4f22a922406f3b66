"""How fast a packed network is, beside the same network in other libraries."""
