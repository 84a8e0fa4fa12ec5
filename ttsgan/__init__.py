"""Synthetic sets of long load profiles, as useful as new real households and audited for privacy."""
