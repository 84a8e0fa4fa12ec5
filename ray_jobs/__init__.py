"""Thin drivers that run the library on Ray; they contain no numerics."""
