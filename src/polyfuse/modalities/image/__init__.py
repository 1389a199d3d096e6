"""Pictures: any mode and depth, one or several in a cell, decoded once to bytes of one size."""

from .codec import ImageCodec
from .descriptors import ImageDescriptors
from .encoders import ImageCnn, ImageLight, ImageResnet, ImageVit

__all__ = ["ImageCnn", "ImageCodec", "ImageDescriptors", "ImageLight", "ImageResnet", "ImageVit"]
