"""The other side of the speed benchmarks: what one writes by hand for one fixed network, without any of our nouns.

The network's layers are those of the fitted bundle (image, text, table -> concat -> classes), so that both sides do the
same arithmetic; reading, tokenising, scaling, batching, pooling, loss and steps are plain Python, Pillow and PyTorch.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tables import rows_of
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from polyfuse.bundle import Bundle

Inputs = list[dict[str, Tensor]]


class PlainNetwork(nn.Module):
    """The forward pass by hand, for rows that lack nothing: inputs of the three encoders -> logits [B, C]."""

    def __init__(self, bundle: Bundle):
        super().__init__()
        model = bundle.model
        self.encoders, self.mlp, self.head = model.encoders, model.fusion.out, model.tasks[0].head

    def forward(self, inputs: Inputs) -> Tensor:
        vectors = []
        for encoder, x in zip(self.encoders, inputs):
            tokens, mask = encoder(x)
            real = mask.unsqueeze(-1)
            mean = (tokens * real).sum(1) / real.sum(1)
            vectors.append(F.layer_norm(mean, mean.shape[1:]))
        there = torch.ones(len(vectors[0]), len(vectors))
        return self.head(self.mlp(torch.cat([*vectors, there], 1)))


class PlainLoop:
    """Rows to answers by hand. A number is standardised and fills both of the network's inputs for it: the least one can do.

    Args:
        bundle: fitted with fusion "concat" on a table of `tables.mixed`, its views image, text, table in this order.
        table: the training table: means, deviations and categories are taken from it.
    """

    def __init__(self, bundle: Bundle, table: Path):
        self.network = PlainNetwork(bundle).eval()
        picture, text, _ = bundle.views.values()
        self.side = picture.filler()["pixels"].shape[-1]
        self.tokenizer = Tokenizer.from_str(json.dumps(text.state()["tokenizer"]))
        self.length = text.length
        rows = rows_of(table)
        self.numbers = [c for c in rows[0] if c[0] == "n"]
        self.categories = [c for c in rows[0] if c[0] == "c"]
        values = np.array([[float(r[c]) for c in self.numbers] for r in rows], np.float32)
        self.mean, self.deviation = values.mean(0), values.std(0)
        self.index = {c: {v: i + 1 for i, v in enumerate(sorted({r[c] for r in rows}))} for c in self.categories}
        self.classes = sorted({r["label"] for r in rows})
        self.base = table.parent

    def inputs(self, row: dict[str, str]) -> Inputs:
        image = Image.open(self.base / row["image"]).convert("RGB").resize((self.side, self.side), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None, None]  # one picture of the one row
        ids = torch.tensor([self.tokenizer.encode(row["text"]).ids[: self.length]], dtype=torch.int32)
        value = (np.array([float(row[c]) for c in self.numbers], np.float32) - self.mean) / self.deviation
        index = [[self.index[c][row[c]] for c in self.categories]]
        members = len(self.numbers) + len(self.categories)
        table = {
            "value": torch.from_numpy(value.repeat(2)).unsqueeze(0),
            "index": torch.tensor(index),
            "present": torch.ones(1, members, dtype=torch.bool),
        }
        return [
            {"pixels": pixels, "mask": torch.ones(1, 1, dtype=torch.bool)},
            {"ids": ids, "mask": torch.ones(ids.shape, dtype=torch.bool)},
            table,
        ]

    @torch.inference_mode()
    def predict(self, row: dict[str, str]) -> dict[str, object]:
        chances = self.network(self.inputs(row)).softmax(1)[0].tolist()
        return {"value": self.classes[int(np.argmax(chances))], "probability": dict(zip(self.classes, chances))}


def train_plain(
    network: PlainNetwork, inputs: Inputs, labels: Tensor, epochs: int, batch: int, rate: float, seed: int, after_epoch
) -> None:
    """The usual loop on tensors in memory: AdamW, warm-up and cosine, clipping."""
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=0.02)
    steps, step = epochs * -(-len(labels) // batch), 0
    network.train()
    for epoch in range(epochs):
        for at in torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed + epoch)).split(batch):
            optimizer.param_groups[0]["lr"] = rate * min(1.0, 10 * (step + 1) / steps) * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.zero_grad()
            loss = F.cross_entropy(network([{k: v[at] for k, v in x.items()} for x in inputs]), labels[at])
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            step += 1
        after_epoch()
