"""The networks, the household model (fitted without gradients) and averages of weights; no optimizer, no logging."""
