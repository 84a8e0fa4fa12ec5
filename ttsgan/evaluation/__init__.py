"""Judges of synthetic series: arrays in; figures, verdict and report out. Networks are only called as functions."""
