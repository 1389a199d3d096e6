"""Lists of ids: what a user bought, which codes a patient has."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import Codec, Draws, Encoded, Encoder, Value, codecs, encoders
from ..core.layers import AttentionPool
from ..core.names import another, read_names
from ..core.sample import evenly

_SAMPLE = 10_000  # lists that are fitted on: this many, and fewer than twice as many
_WEAKEST = 1e-4  # of the strongest direction's strength; what is weaker is rounding


@codecs("ids")
class IdsCodec(Codec):
    """A list of ids, the latest last: a list, a JSON list, or text with a separator.

    An id not seen in training, or too rare, is "other". While training some are taken as "other", so that it has a meaning.
    Source: ours.

    Args:
        separator: between ids of a text; "" = the most common of | ; , and the blank among the training rows.
        min_count: an id with fewer occurrences is "other".
        most: only the most frequent ids are kept.
        longest: of a list, its last ids.
    Shapes:
        cell -> "ids" int64 [T]; 0 = other
    """

    encoder = "ids-bag"
    untrained = "ids-counts"
    ragged = True

    def __init__(self, column: str, *, separator: str = "", min_count: int = 2, most: int = 50_000, longest: int = 200):
        super().__init__(column)
        self.given, self.separator, self.min_count, self.most, self.longest = separator, separator or "|", min_count, most, longest
        self.values: list[str] = []
        self._index: dict[str, int] = {}

    @classmethod
    def examples(cls) -> list[Any]:
        return [[17, 4, 4], "[4, 99]", ["a", "17"], "17|4|a|b", [4]]

    @classmethod
    def claims(cls, sample: Sequence[Any]) -> float:
        if not sample:
            return 0.0
        if all(isinstance(v, list) and v and all(isinstance(x, str) for x in v) for v in sample):
            return 0.7
        for mark in "|;":
            parts = [p for v in sample if isinstance(v, str) for p in v.split(mark)]
            if len(parts) > 1.5 * len(sample) and len(set(parts)) < 0.7 * len(parts) and max(map(len, parts)) < 40:
                return 0.86
        return 0.0

    def read(self, raw: Any) -> list[str] | str | None:
        """-> ids, or the text that is cut at the separator `fit` found."""
        if isinstance(raw, bool):
            raise self.error("holds a bool", expected="ids such as [17, 4] or 17|4")
        found = read_names(self, raw, "ids", "[17, 4] or 17|4")
        if found == []:
            raise self.error("is an empty list", expected="at least one id", fix="empty the cell where there is no list")
        return found

    def fit(self, values: Iterator[list[str] | str]) -> None:
        kept = list(values)
        marks = Counter(m for v in kept if isinstance(v, str) for m in "|;, " if m in v.strip())
        self.separator = self.given or (marks.most_common(1)[0][0] if marks else "|")
        counts = Counter(i for v in kept for i in self._cut(v))
        frequent = sorted(counts.items(), key=lambda p: (-p[1], p[0]))[: self.most]
        self.values = sorted(v for v, c in frequent if c >= self.min_count)
        self._index = {v: i + 1 for i, v in enumerate(self.values)}

    def _cut(self, value: list[str] | str) -> list[str]:
        parts = value.split(self.separator) if isinstance(value, str) else value
        return [p.strip() for p in parts if p.strip()] or [""]

    def clean(self, value: list[str] | str) -> Value:
        return {"ids": np.array([self._index.get(i, 0) for i in self._cut(value)[-self.longest :]], np.int64)}

    def augment(self, x: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        return {**x, "ids": x["ids"].masked_fill(draws.uniform(x["ids"].shape[1]) < 0.05, 0)}

    def noise(self, x: dict[str, Tensor], level: float, draws: Draws) -> dict[str, Tensor]:
        """Each id becomes another of the known ones with probability `level`: at 1 every one is wrong."""
        if not level:
            return x
        ids = x["ids"]
        u = draws.uniform(ids.shape[1], 2).to(ids.device)
        return {**x, "ids": torch.where((u[..., 0] < level) & x["mask"], another(ids, u[..., 1], len(self.values)), ids)}

    def filler(self) -> Value:
        return {"ids": np.zeros(1, np.int64)}

    def state(self) -> dict[str, Any]:
        return {"values": self.values, "separator": self.separator}

    def load_state(self, state: dict[str, Any]) -> None:
        self.values, self.separator = list(state["values"]), state["separator"]
        self._index = {v: i + 1 for i, v in enumerate(self.values)}


@encoders("ids-bag")
class IdsBag(Encoder):
    """Embeddings of the ids, pooled by attention to one token; later ids can weigh more.

    Source: ours, after the attention pooling of Ilse et al. 2018.

    Args:
        dropout: on the embeddings.
    Shapes:
        ids [P, T] -> tokens [P, 1, D]
    Cost:
        D parameters per id, and 2 * D^2.
    """

    modality = "ids"

    def __init__(self, codec: IdsCodec, width: int, *, dropout: float = 0.1):
        super().__init__(codec, width)
        self.embedding = nn.Embedding(len(codec.values) + 1, width)
        self.recency = nn.Parameter(torch.randn(width) * 0.02)
        self.pool = AttentionPool(width)
        self.norm = nn.LayerNorm(width)
        self.dropout = dropout

    def features(self, x: dict[str, Tensor]) -> Encoded:
        mask = x["mask"]
        h = self.embedding(x["ids"].masked_fill(~mask, 0))
        age = mask.flip(1).long().cumsum(1).flip(1) - 1  # 0 = the last one
        h = F.dropout(h, self.dropout, self.training) + torch.exp(-age / 5.0).unsqueeze(-1) * self.recency
        return Encoded(self.norm(self.pool(h, mask)[0]).unsqueeze(1), mask.any(1, keepdim=True))


@encoders("ids-counts")
class IdsCounts(Encoder):
    """Which ids are in the list, rare ones weighing more, as coordinates along the directions in which lists differ most.

    What no label trains: ids that come in the same lists are near each other. `ids-bag` with many rows, or where the last
    ids count. The length of the list and its share of "other" are given beside the coordinates, which do not tell them.
    Source: Deerwester et al. 1990, "Indexing by Latent Semantic Analysis"; weights of Salton and Buckley 1988, "Term-weighting
    approaches in automatic text retrieval" (logarithm of the count, inverse document frequency, length 1).

    Args:
        dims: coordinates; zeros where the training lists have fewer directions.
    Shapes:
        ids [P, T] -> tokens [P, 1, D]; stored [P, 1, dims + 2]
    Cost:
        dims numbers per id, (dims + 2) * D parameters; linear in T.
    """

    modality = "ids"
    frozen = True
    columnar = True
    rarity: Tensor
    directions: Tensor

    def __init__(self, codec: IdsCodec, width: int, *, dims: int = 64):
        super().__init__(codec, width)
        self.register_buffer("rarity", torch.ones(len(codec.values) + 1))
        self.register_buffer("directions", torch.zeros(len(codec.values) + 1, dims))
        self.norm, self.out = nn.LayerNorm(dims + 2), nn.Linear(dims + 2, width)

    def fit(self, stream: Iterable[dict[str, Tensor]]) -> None:
        from scipy.sparse import csr_matrix
        from sklearn.utils.extmath import randomized_svd

        lists = evenly((ids[mask] for x in stream for ids, mask in zip(x["ids"], x["mask"])), _SAMPLE)
        if not lists:
            return
        seen = torch.bincount(torch.cat([ids.unique() for ids in lists]), minlength=len(self.rarity))
        self.rarity.copy_(torch.log((1 + len(lists)) / (1 + seen)) + 1)
        ids = nn.utils.rnn.pad_sequence(lists, batch_first=True, padding_value=-1)
        ids, weight = self._weighed(ids, ids >= 0)
        real = weight > 0
        entries = (weight[real].cpu().numpy(), (real.nonzero()[:, 0].cpu().numpy(), ids[real].cpu().numpy()))
        counts = csr_matrix(entries, (len(lists), len(self.rarity)))
        _, strength, found = randomized_svd(counts, min(self.directions.shape[1], *counts.shape), random_state=0)
        rank = int((strength > _WEAKEST * strength[0]).sum())
        scaled = found[:rank].T * (np.sqrt(len(lists)) / strength[:rank])  # coordinates with a mean square of 1
        self.directions.zero_()[:, :rank] = torch.from_numpy(scaled.astype(np.float32))

    def features(self, x: dict[str, Tensor]) -> Encoded:
        mask = x["mask"]
        ids, weight = self._weighed(x["ids"], mask)
        place = torch.einsum("pt,ptf->pf", weight, self.directions[ids])
        count = mask.sum(1, keepdim=True)
        other = ((x["ids"] == 0) & mask).sum(1, keepdim=True) / count.clamp(min=1)
        some = mask.any(1, keepdim=True)
        return Encoded(torch.cat([place, count.clamp(min=1).log(), other], 1).unsqueeze(1), some)

    def project(self, encoded: Encoded) -> Tensor:
        return self.out(self.norm(encoded.x))

    def _weighed(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Sorted ids [P, T] and their weights, zero under the mask; an id that is there n times has its weight in n parts."""
        ids = ids.masked_fill(~mask, -1).sort(1).values
        real = ids >= 0
        group = F.pad((ids[:, 1:] != ids[:, :-1]).long(), (1, 0)).cumsum(1)  # equal ids have equal numbers
        times = torch.zeros_like(group).scatter_add(1, group, torch.ones_like(group)).gather(1, group)
        ids = ids.clamp(min=0)
        weight = ((1 + times.log()) * self.rarity[ids]).masked_fill(~real, 0.0)
        length = (weight.square() / times).sum(1, keepdim=True).sqrt().clamp(min=1e-6)
        return ids, weight / times / length
