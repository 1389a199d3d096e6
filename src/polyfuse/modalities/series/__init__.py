"""Sensor series: many channels, own lengths, gaps as mask."""

from .codec import SeriesCodec
from .encoders import SeriesCnn, SeriesGru, SeriesLstm, SeriesLstnet, SeriesTransformer
from .features import SeriesFeatures

__all__ = ["SeriesCnn", "SeriesCodec", "SeriesFeatures", "SeriesGru", "SeriesLstm", "SeriesLstnet", "SeriesTransformer"]
