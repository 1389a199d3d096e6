"""Sound: any rate and depth, one channel or two, as a log-mel spectrogram that is computed once."""

from .codec import AudioCodec
from .descriptors import AudioDescriptors
from .encoders import AudioCnn, AudioGru, AudioTransformer

__all__ = ["AudioCnn", "AudioCodec", "AudioDescriptors", "AudioGru", "AudioTransformer"]
