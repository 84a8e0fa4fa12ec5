"""The networks: architecture only; no optimizer, no device choice, no logging."""
