"""Pretrained audio encoders."""

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ...core import Codec, RecipeError, encoders
from .checkpoint import needs, read_config, read_json
from .encoder import HubEncoder


@encoders("audio-hub")
class AudioHub(HubEncoder):
    """Any audio model of Hugging Face (Wav2Vec2, HuBERT, WavLM, AST, Whisper's encoder, CLAP's audio tower ...).

    With up to some thousand recordings of speech or everyday sounds it beats what is trained from scratch; for
    machines and sensors `audio-cnn` may be as good and is far cheaper.
    Source: Baevski et al. 2020, "wav2vec 2.0"; Gong et al. 2021, "AST: Audio Spectrogram Transformer";
    Hu et al. 2022, "LoRA", section 4.1, for tune="lora". What differs: waves of different length never share a
    batch inside the network, since some checkpoints normalise over time and would hear the padding.

    Args:
        checkpoint: a local folder, or a name on the Hugging Face hub that is in the local cache.
        tune: none = frozen, all, a number of last layers, or lora.
        lora_rank: rank of the updates.
        tokens: most tokens given; frames are averaged with their neighbours.
        layers: how many layers are given side by side: the last, and others evenly from the middle on.
        download: fetch the checkpoint where it is not here; the log names the size first.
        config: set when a bundle is loaded.

    Shapes:
        {"wave" [P, T], "mask" [P, T]} -> tokens [P, min(N, tokens), D]

    Raises:
        RecipeError: the checkpoint is not here, has no safetensors weights, or is no audio model.

    Cost:
        the checkpoint's, one call per distinct length; Whisper hears 30 seconds whatever the cell holds.
    """

    modality = "audio"
    part = "audio"
    inputs = ("input_values", "input_features")

    @classmethod
    def describe(cls, folder: Path) -> dict[str, Any]:
        model, how = read_config(folder), read_json(folder, "preprocessor_config.json")
        how = {k: v for k, v in how.items() if k not in ("feature_extractor_type", "processor_class", "auto_map")}
        return {"model": model, "extractor": how, "codec": {"form": "wave", "rate_hz": how.get("sampling_rate", 16000)}}

    def prepare(self, codec: Codec, made: Any) -> None:
        if "wave" not in codec.filler():
            raise RecipeError(
                f"column '{codec.column}'", f"encoder '{self.name}' needs the wave itself", fix="set the column's option form='wave'"
            )
        transformers = needs("transformers")
        # the class follows from the model's type, never from a name in a file
        mapping = transformers.models.auto.feature_extraction_auto.FEATURE_EXTRACTOR_MAPPING
        if type(made) not in mapping:
            raise RecipeError(
                f"checkpoint of type '{made.model_type}'", "is no audio model", expected="Wav2Vec2, HuBERT, AST, Whisper, CLAP ..."
            )
        kind = mapping[type(made)]
        self.raw = kind is transformers.Wav2Vec2FeatureExtractor
        self.extractor = kind(**self.config["extractor"])
        self.rate_hz = self.config["codec"]["rate_hz"]
        self.fewest = _receptive_field(made) if self.raw else self.rate_hz // 10
        self.most = getattr(self.extractor, "nb_max_samples", None) or getattr(self.extractor, "n_samples", None)

    def hidden(self, x: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        wave, mask = x["wave"].float(), x["mask"]
        wave = wave.masked_fill(~mask, 0.0)
        lengths = mask.sum(1)
        found: list[tuple[Tensor, Tensor]] = []  # rows of one length, their states
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero().squeeze(1)
            found.append((rows, self._states(wave[rows, : min(length, self.most or length)])))
        frames = max((s.shape[1] for _, s in found), default=1)
        size = found[0][1].shape[2] if found else self.hidden_size
        states = wave.new_zeros(len(wave), frames, size)
        real = mask.new_zeros(len(wave), frames)
        for rows, s in found:
            states = states.index_copy(0, rows, F.pad(s, (0, 0, 0, frames - s.shape[1])))
            real[rows, : s.shape[1]] = True
        return states, real

    def _states(self, wave: Tensor) -> Tensor:
        """Waves of one length [R, T] -> [R, N, F]."""
        if wave.shape[1] < self.fewest:
            wave = F.pad(wave, (0, self.fewest - wave.shape[1]))
        if self.raw:
            if self.extractor.do_normalize:
                wave = (wave - wave.mean(1, keepdim=True)) / (wave.var(1, keepdim=True, unbiased=False) + 1e-7).sqrt()
            inputs = {"input_values": wave}
        else:  # the library's own spectrogram, on the processor
            made = self.extractor(list(wave.detach().cpu().numpy()), sampling_rate=self.rate_hz, return_tensors="pt")
            inputs = {k: v.to(wave.device) for k, v in made.items() if k != "attention_mask"}
        states = self.states(**inputs)
        return states.flatten(2).transpose(1, 2) if states.dim() == 4 else states


def _receptive_field(made: Any) -> int:
    """The fewest samples that give one frame."""
    field = 1
    for kernel, stride in reversed(list(zip(made.conv_kernel, made.conv_stride, strict=True))):
        field = (field - 1) * stride + kernel
    return field
