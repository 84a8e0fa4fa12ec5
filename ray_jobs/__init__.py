"""Thin drivers that run the library on Ray; no numerics live here."""
