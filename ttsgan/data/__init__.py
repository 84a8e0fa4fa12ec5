"""Series in and out: the Parquet store, preparation, the split, scaling and the simulated sample."""
