"""Judges of synthetic series: arrays or Parquet in, numbers out; knows no model."""
