"""Pretrained vision encoders."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core import Codec, RecipeError, encoders
from .checkpoint import read_config, read_json
from .encoder import HubEncoder


@encoders("image-hub")
class ImageHub(HubEncoder):
    """Any vision model of Hugging Face (ViT, DINOv2, Swin, ConvNeXt, ResNet, CLIP's or SigLIP's vision tower ...).

    With up to some thousand pictures of everyday things it beats what is trained from scratch. For small, odd or
    measured pictures (digits, spectra, sensors) `image-cnn` may be as good and is far cheaper.
    Source: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words"; He et al. 2016, "Deep Residual Learning";
    Hu et al. 2022, "LoRA", section 4.1, for tune="lora".

    Args:
        checkpoint: a local folder, or a name on the Hugging Face hub that is in the local cache.
        tune: none = frozen, all, a number of last layers, or lora.
        lora_rank: rank of the updates.
        tokens: most tokens given for all pictures of a cell together; patches are averaged with their neighbours.
        layers: how many layers are given side by side: the last, and others evenly from the middle on.
        download: fetch the checkpoint where it is not here; the log names the size first.
        config: set when a bundle is loaded.

    Shapes:
        {"pixels" uint8 [P, K, C, H, W], "mask" [P, K]} -> tokens [P, min(K N, tokens), D]

    Raises:
        RecipeError: the checkpoint is not here, has no safetensors weights, or is no vision model.

    Cost:
        the checkpoint's; a ViT-B (86 million parameters) reads a few pictures a second on 2 cores.
    """

    modality = "image"
    part = "vision"
    inputs = ("pixel_values",)

    @classmethod
    def describe(cls, folder: Path) -> dict[str, Any]:
        model, how = read_config(folder), read_json(folder, "preprocessor_config.json")
        tower: Any = model.get("vision_config") if isinstance(model.get("vision_config"), dict) else model
        size = _side(tower.get("image_size")) or _side(how.get("crop_size")) or _side(how.get("size")) or 224
        mean, std = (how.get("image_mean"), how.get("image_std")) if how.get("do_normalize", True) else (0.0, 1.0)
        scale = how.get("rescale_factor", 1 / 255) if how.get("do_rescale", True) else 1.0
        channels = tower.get("num_channels", 3)
        return {
            "model": model,
            "codec": {"size": size, "channels": channels},
            "scale": scale,
            "mean": _each(mean, channels),
            "std": _each(std, channels),
        }

    def prepare(self, codec: Codec, made: Any) -> None:
        shape = codec.filler()["pixels"].shape
        if shape[1] not in (1, self.config["codec"]["channels"]):
            raise RecipeError(
                f"column '{codec.column}'",
                f"has {shape[1]} channels, the checkpoint {self.config['codec']['channels']}",
                expected="the same number",
                fix=f"set the column's option channels={self.config['codec']['channels']}",
            )
        self.register_buffer("mean", torch.tensor(self.config["mean"]).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.config["std"]).view(-1, 1, 1), persistent=False)

    def hidden(self, x: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        pixels, mask = x["pixels"], x["mask"]  # [P, K, C, H, W], [P, K]
        real = pixels[mask]  # [M, C, H, W]
        # a network takes at least one picture: a grey one whose result is thrown away
        asked = real if len(real) else pixels.new_zeros(1, *pixels.shape[2:])
        scaled = (asked.float() * self.config["scale"] - self.mean) / self.std  # one channel becomes all of them here
        states = self.states(pixel_values=scaled)
        if states.dim() == 4:  # a convolutional network's map: [M, F, h, w] -> [M, h w, F]
            states = states.flatten(2).transpose(1, 2)
        states = states[: len(real)]
        n = states.shape[1]
        full = states.new_zeros(*mask.shape, n, states.shape[2])
        full[mask] = states  # [P, K, N, F]
        return full.flatten(1, 2), mask.repeat_interleave(n, 1)


def _side(size: Any) -> int | None:
    """One side in pixels, from the several ways in which checkpoints write it."""
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    if isinstance(size, list | tuple) and size:
        size = size[0]
    return size if isinstance(size, int) and size > 0 else None


def _each(value: Any, channels: int) -> list[float]:
    """One number per channel; 0.5, as ViT has it, where a checkpoint names none."""
    values = value if isinstance(value, list) else [0.5 if value is None else value]
    return [float(v) for v in (values if len(values) == channels else values[:1] * channels)]
