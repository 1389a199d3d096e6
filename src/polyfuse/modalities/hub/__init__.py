"""Pretrained Hugging Face models as encoders of text, images and sound."""

from .audio import AudioHub
from .checkpoint import download_size
from .image import ImageHub
from .text import TextHub

__all__ = ["AudioHub", "ImageHub", "TextHub", "download_size"]
