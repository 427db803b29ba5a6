"""Layer-normalised gates: what they compute, every gradient, and what goes together with them."""
