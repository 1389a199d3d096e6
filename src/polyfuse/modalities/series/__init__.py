"""Sensor series: many channels, own lengths, gaps as mask."""

from .codec import SeriesCodec
from .encoders import SeriesCnn, SeriesGru, SeriesLstm, SeriesLstnet, SeriesTransformer

__all__ = ["SeriesCnn", "SeriesCodec", "SeriesGru", "SeriesLstm", "SeriesLstnet", "SeriesTransformer"]
