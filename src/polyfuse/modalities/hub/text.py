"""Pretrained language encoders."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core import Codec, RecipeError, encoders
from .checkpoint import read_config, read_json
from .encoder import HubEncoder

_MOST_TOKENS = 512  # for checkpoints that name no limit


@encoders("text-hub")
class TextHub(HubEncoder):
    """Any text model of Hugging Face (BERT, MiniLM, RoBERTa, T5's or BART's encoder, CLIP's text tower, GPT-2, Qwen ...).

    Reads what was never in the table: with up to some thousand rows it beats what is trained from scratch. With
    many rows of a narrow language, or no room for the weights, take `text-gru`.
    Source: Devlin et al. 2019, "BERT"; Reimers and Gurevych 2019, "Sentence-BERT", for the averaging;
    Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1, for tune="lora".

    Args:
        checkpoint: a local folder, or a name on the Hugging Face hub that is in the local cache.
        tune: none = frozen, all, a number of last layers, or lora.
        lora_rank: rank of the updates.
        tokens: most tokens given; longer text is averaged in pieces; 1 = one vector for the text.
        layers: how many layers are given side by side: the last, and others evenly from the middle on.
        download: fetch the checkpoint where it is not here; the log names the size first.
        config: set when a bundle is loaded.

    Shapes:
        {"ids" [P, T], "mask" [P, T]} -> tokens [P, min(T, tokens), D]

    Raises:
        RecipeError: the checkpoint is not here, has no safetensors weights, or is no text model.

    Cost:
        the checkpoint's; MiniLM (22 million parameters) reads 550 short cells a second on 2 cores.
    """

    modality = "text"
    part = "text"
    inputs = ("input_ids",)

    @classmethod
    def describe(cls, folder: Path) -> dict[str, Any]:
        model = read_config(folder)
        tower: Any = model.get("text_config") if isinstance(model.get("text_config"), dict) else model
        places = tower.get("max_position_embeddings", tower.get("n_positions"))
        if isinstance(places, int) and places % 16 == 2:
            places -= 2  # families that follow RoBERTa (514) count from the padding id on and have two fewer than they name
        limits = [places, read_json(folder, "tokenizer_config.json").get("model_max_length"), _MOST_TOKENS]
        longest = int(min(n for n in limits if isinstance(n, int | float) and n > 0))
        return {"model": model, "codec": {"tokenizer": str(folder), "longest": longest}}

    def prepare(self, codec: Codec, made: Any) -> None:
        vocabulary = getattr(made, "vocab_size", None) or getattr(getattr(made, "text_config", None), "vocab_size", None)
        if not getattr(codec, "pretrained", False):
            raise RecipeError(
                f"column '{codec.column}'",
                f"encoder '{self.name}' needs the tokens of its checkpoint",
                expected="the column's option tokenizer to name the checkpoint's folder",
                fix="write encoder='hub:NAME'",
            )
        size = int(getattr(codec, "size", 0))
        if vocabulary is None or size > vocabulary:
            raise RecipeError(
                f"column '{codec.column}'",
                f"its tokenizer has {size} tokens, the model {vocabulary}",
                expected="a text model with its own tokenizer",
            )
        pad = getattr(made, "pad_token_id", None)
        self.pad = pad if isinstance(pad, int) and 0 <= pad < vocabulary else 0

    def hidden(self, x: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        mask = x["mask"]
        if not len(mask):
            return self._none(mask)
        ids = x["ids"].long().masked_fill(~mask, self.pad)
        return self.states(input_ids=ids, attention_mask=mask.long()), mask

    def _none(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        return mask.new_zeros(*mask.shape, self.hidden_size, dtype=torch.float32), mask
