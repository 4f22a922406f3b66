"""Whether a packed network is the network: proofs, comparisons with answers, alternatives to what was assumed."""
