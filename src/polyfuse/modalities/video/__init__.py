"""Clips: frames sampled over time, each decoded once to one size."""

from .codec import VideoCodec
from .descriptors import VideoDescriptors
from .encoders import VideoGru, VideoPool, VideoTransformer

__all__ = ["VideoCodec", "VideoDescriptors", "VideoGru", "VideoPool", "VideoTransformer"]
