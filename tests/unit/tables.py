"""What tests of readers share: three homes as a set of series and as a table, files of them."""

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from ttsgan.data.readers import read_series
from ttsgan.data.series_set import SeriesSet
from ttsgan.data.storage import Location

HOURS = 48
NAN = np.nan


def three_homes():
    """Three homes of two people, two days of hours in kW, one value missing."""
    values = np.random.default_rng(0).gamma(1.0, 1.0, (3, 1, HOURS)).astype(np.float32)
    values[1, 0, 5] = NAN
    return SeriesSet(
        ids=np.array(["a", "b", "c"], dtype=object),
        entities=np.array(["p", "p", "q"], dtype=object),
        starts=np.full(3, np.datetime64("2013-01-01", "s")),
        values=values,
        unit="kW",
        step_seconds=3600,
        attributes=pa.table({"tariff": ["x", "x", "y"]}),
    )


def long_table(series, **changes):
    stamps = series.starts[:, None] + np.arange(series.length) * np.timedelta64(series.step_seconds, "s")
    columns = {
        "LCLid": np.repeat(series.ids.astype(str), series.length),
        "tariff": np.repeat(series.attributes["tariff"].to_pylist(), series.length),
        "entity": np.repeat(series.entities.astype(str), series.length),
        "DateTime": stamps.reshape(-1),
        "KWH/hh (per half hour) ": pa.array(series.values.reshape(-1), from_pandas=True),
    }
    return pa.table(columns | changes)


def save(table, path):
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        pacsv.write_csv(table, path)
    return Location.parse(str(path))


def read(table, path):
    return read_series(save(table, path))
