"""What a column can be: one file (or folder) a modality, with its codec and its encoders. The table of contents."""

from . import audio, category, hub, ids, image, labels, number, series, table, text, time, vector, video

__all__ = ["audio", "category", "hub", "ids", "image", "labels", "number", "series", "table", "text", "time", "vector", "video"]
