"""Synthetic sets of long load profiles, compared with unseen real households and audited for privacy."""
