"""Text in any language: subword tokens learned on the column, or a checkpoint's own."""

from .codec import Text
from .encoders import TextBag, TextGru, TextLstm, TextTransformer

__all__ = ["Text", "TextBag", "TextGru", "TextLstm", "TextTransformer"]
