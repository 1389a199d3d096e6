"""Text in any language: subword tokens learned on the column, or a checkpoint's own."""

from .codec import Text
from .encoders import TextBag, TextGru, TextLstm, TextTransformer
from .tfidf import TextTerms, TextTfidf

__all__ = ["Text", "TextBag", "TextGru", "TextLstm", "TextTerms", "TextTfidf", "TextTransformer"]
