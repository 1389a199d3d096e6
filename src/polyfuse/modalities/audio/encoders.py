"""From a log-mel spectrogram to tokens: encoders that train with the model."""

from torch import Tensor, nn
from torch.nn import functional as F

from ...core import Encoded, Encoder, RecipeError, encoders
from ...core.layers import Recurrent, SeriesNorm, Transformer, positions, shrink_mask
from .codec import AudioCodec


class _MelEncoder(Encoder):
    """Takes a log-mel spectrogram."""

    modality = "audio"

    def __init__(self, codec: AudioCodec, width: int):
        super().__init__(codec, width)
        if codec.form != "logmel":
            raise RecipeError(f"column '{codec.column}'", f"encoder '{self.name}' needs form='logmel', not {codec.form!r}")


@encoders("audio-cnn")
class AudioCnn(_MelEncoder):
    """Convolutions over time with the mel bands as channels: tokens over time.

    The first to try from scratch: the cheapest, and on a few thousand short sounds better than convolutions over time and
    frequency. `audio-gru` follows longer ones; speech and scenes with few rows want a pretrained network
    (encoder="hub:NAME").
    Source: Waibel et al. 1989, "Phoneme Recognition Using Time-Delay Neural Networks", with norms and pooling between.

    Args:
        depth: convolutions after the first; each of the first three halves the steps.
        dropout: on the tokens.
    Shapes:
        mel [P, T, M] -> tokens [P, T / 8, D]
    Cost:
        about (3 * depth) * D^2 + 5 * M * D parameters; linear in T.
    """

    def __init__(self, codec: AudioCodec, width: int, *, depth: int = 3, dropout: float = 0.1):
        super().__init__(codec, width)
        self.enter = nn.Conv1d(codec.mels, width, 5, padding=2)
        self.convs = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1) for _ in range(depth))
        self.norms = nn.ModuleList(SeriesNorm(width) for _ in range(depth + 1))
        self.halvings = min(3, depth + 1)
        self.depth_widths = (width,) * (self.halvings - 1)
        self.dropout = dropout
        self.most_tokens = -(-codec.most_steps // 2**self.halvings)

    def features(self, x: dict[str, Tensor]) -> Encoded:
        mask, pad = x["mask"], -x["mask"].shape[1] % 2**self.halvings
        h = F.pad(x["mel"].float().masked_fill(~mask.unsqueeze(-1), 0.0), (0, 0, 0, pad)).transpose(1, 2)  # [P, M, T]
        mask = F.pad(mask, (0, pad))
        depths = []
        for at, norm in enumerate(self.norms):
            h = self.enter(h) if at == 0 else self.convs[at - 1](h)
            h = F.gelu(norm(h, mask)) * mask.unsqueeze(1)
            if at < self.halvings:
                h = F.avg_pool1d(h, 2)
                mask = shrink_mask(mask, 2, h.shape[2])
                depths.append((h.transpose(1, 2), mask))
        return Encoded(F.dropout(h.transpose(1, 2), self.dropout, self.training), mask, self.earlier(*depths[:-1]))


@encoders("audio-gru")
class AudioGru(_MelEncoder):
    """A bidirectional recurrent network over pairs of windows.

    For longer sounds in which the order matters. Source: Cho et al. 2014; over log-mel after Graves et al. 2013.

    Args:
        depth, dropout: of the recurrent layers.
        cell: "gru" or "lstm".
    Shapes:
        mel [P, T, M] -> tokens [P, T / 4, D]
    Cost:
        about 6 * depth * D^2 parameters; linear in T, step by step.
    """

    def __init__(self, codec: AudioCodec, width: int, *, depth: int = 2, dropout: float = 0.1, cell: str = "gru"):
        super().__init__(codec, width)
        self.enter = nn.Linear(4 * codec.mels, width)
        self.recurrent = Recurrent(width, width, depth, cell, dropout)
        self.norm = nn.LayerNorm(width)
        self.most_tokens = -(-codec.most_steps // 4)
        self.depth_widths = (width,)

    def features(self, x: dict[str, Tensor]) -> Encoded:
        h, mask = _stacked(x, 4)
        h = F.gelu(self.enter(h))
        return Encoded(self.norm(self.recurrent(h, mask)), mask, self.earlier((h, mask)))


@encoders("audio-transformer")
class AudioTransformer(_MelEncoder):
    """A transformer over pieces of four windows.

    With many rows, or where distant moments belong together. Source: Gong et al. 2021, "AST: Audio Spectrogram Transformer",
    with pieces over time only.

    Args:
        depth, heads, dropout: of the transformer.
    Shapes:
        mel [P, T, M] -> tokens [P, T / 4, D]
    Cost:
        12 * depth * D^2 parameters; quadratic in T.
    """

    def __init__(self, codec: AudioCodec, width: int, *, depth: int = 3, heads: int = 4, dropout: float = 0.1):
        super().__init__(codec, width)
        self.enter = nn.Linear(4 * codec.mels, width)
        self.transformer = Transformer(width, depth, heads, dropout)
        self.most_tokens = -(-codec.most_steps // 4)
        self.depth_widths = (width,) * depth

    def features(self, x: dict[str, Tensor]) -> Encoded:
        h, mask = _stacked(x, 4)
        h = self.enter(h) + positions(h.shape[1], self.width, h.device)
        *earlier, last = self.transformer.states(h, mask)
        return Encoded(last, mask, self.earlier(*((e, mask) for e in earlier)))


def _stacked(x: dict[str, Tensor], size: int) -> tuple[Tensor, Tensor]:
    """Pieces of `size` windows: [P, T, M] -> [P, T / size, size * M] and their mask."""
    pad = -x["mask"].shape[1] % size
    mel = F.pad(x["mel"].float().masked_fill(~x["mask"].unsqueeze(-1), 0.0), (0, 0, 0, pad))
    mask = shrink_mask(x["mask"], size, mel.shape[1] // size)
    return mel.reshape(len(mel), mel.shape[1] // size, size * mel.shape[2]), mask
