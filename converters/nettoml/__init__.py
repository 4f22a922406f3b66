"""Networks described by a net.toml: read, drafted, written."""
