"""What every encoder keeps."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..core import (
    Codec,
    TableCodec,
    encoders,
)
from ..core.codec import MOST_DEEP
from .making import WIDTH, all_learn, close, encoder_of


def encoder_shapes(name: str) -> None:
    encoder, codec, values = encoder_of(name)
    x, mask = encoder(codec.collate(values))
    assert x.ndim == 3 and x.shape[0] == len(values) and x.shape[2] == WIDTH, f"tokens are {tuple(x.shape)}"
    assert mask.shape == x.shape[:2] and mask.dtype == torch.bool, f"mask is {tuple(mask.shape)} {mask.dtype}"
    assert mask.any(1).all(), "a present cell has no token"
    assert x.shape[1] <= encoder.most_tokens, f"{x.shape[1]} tokens, most_tokens says {encoder.most_tokens}"


def encoder_no_rows(name: str) -> None:
    encoder, codec, values = encoder_of(name)
    x, mask = encoder({k: v[:0] for k, v in codec.collate(values).items()})
    assert x.shape[0] == 0 and x.shape[2] == WIDTH and mask.shape == x.shape[:2], f"tokens {tuple(x.shape)}, mask {tuple(mask.shape)}"


def encoder_row_alone(name: str) -> None:
    encoder, codec, values = encoder_of(name)
    x, mask = encoder(codec.collate(values))
    for i, value in enumerate(values):
        one, m = encoder(codec.collate([value]))
        n = one.shape[1]
        assert not mask[i, n:].any(), "padding made tokens"
        assert torch.equal(mask[i, :n], m[0]), "the mask depends on the neighbours"
        close(one[0].masked_fill(~m[0, :, None], 0), x[i, :n].masked_fill(~m[0, :, None], 0), "a row alone differs from the row in a batch")


def encoder_ignores_padding(name: str) -> None:
    encoder, codec, values = encoder_of(name)
    x = codec.collate(values)
    out, mask = encoder({k: v.clone() for k, v in x.items()})
    for dirty in _with_junk(codec, x):
        again, m = encoder(dirty)
        assert torch.equal(mask, m), "the mask depends on values under a false mask"
        close(again.masked_fill(~m[..., None], 0), out.masked_fill(~mask[..., None], 0), "what lies under a false mask changes tokens")


def _with_junk(codec: Codec, x: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Collated cells with sevens, then with NaN, under every false mask; none where there is no mask."""
    key = "present" if isinstance(codec, TableCodec) else "mask"
    for junk in (7.0, float("nan")) if key in x else ():
        dirty = {k: v.clone() for k, v in x.items()}
        if isinstance(codec, TableCodec):
            dirty["value"][~x["present"][:, codec.number_owner]] = junk
            dirty["index"][~x["present"][:, codec.index_owner]] = 1
        else:
            for k, v in dirty.items():
                if k != key and v.shape[:2] == x[key].shape and (v.is_floating_point() or junk == 7.0) and v.dtype != torch.bool:
                    v[~x[key]] = junk if v.is_floating_point() else 1
        yield dirty


def encoder_filler_finite(name: str) -> None:
    encoder, codec, _ = encoder_of(name)
    x, _mask = encoder(codec.collate([codec.filler(), codec.filler()]))
    assert torch.isfinite(x).all(), "fillers give tokens that are not finite"


def encoder_depths(name: str) -> None:
    """Earlier layers come where asked for, with the widths that are declared, and keep every rule the tokens keep."""
    encoder, codec, values = encoder_of(name)
    x = codec.collate(values)
    plain = encoder.features(x)
    assert plain.depths == (), "gives earlier layers though `deep` is not set"
    encoder.deep = True
    deep = encoder.features(x)
    close(deep.x, plain.x, "with earlier layers the tokens differ")
    widths = tuple(h.shape[2] for h, _ in deep.depths)
    assert widths == tuple(encoder.depth_widths), f"the widths are {widths}, depth_widths says {encoder.depth_widths}"
    for h, mask in deep.depths:
        assert mask.shape == h.shape[:2] and mask.dtype == torch.bool, f"a depth's mask is {tuple(mask.shape)} {mask.dtype}"
        assert len(h) == len(values) and h.shape[1] <= MOST_DEEP, f"a depth is {tuple(h.shape)}, more than {MOST_DEEP} tokens"
        assert mask.any(1).all(), "a present cell has no token at a depth"
        assert not h[~mask].any(), "a depth has values under a false mask"
    for i, value in enumerate(values):
        for (h, mask), (one, m) in zip(deep.depths, encoder.features(codec.collate([value])).depths, strict=True):
            n = one.shape[1]
            assert torch.equal(mask[i, :n], m[0]) and not mask[i, n:].any(), "a depth's mask depends on the neighbours"
            close(one[0], h[i, :n], "a depth of a row alone differs from the row in a batch")
    for dirty in _with_junk(codec, x):
        for (h, mask), (again, m) in zip(deep.depths, encoder.features(dirty).depths, strict=True):
            assert torch.equal(mask, m), "a depth's mask depends on values under a false mask"
            close(again, h, "what lies under a false mask changes a depth")
    fillers = encoder.features(codec.collate([codec.filler(), codec.filler()])).depths
    assert all(torch.isfinite(h).all() for h, _ in fillers), "fillers give a depth that is not finite"
    nothing = encoder.features({k: v[:0] for k, v in x.items()}).depths
    assert all(len(h) == len(m) == 0 for h, m in nothing), "no rows give a depth with rows"


def encoder_gradients(name: str) -> None:
    encoder, codec, values = encoder_of(name)
    if encoder.frozen:
        assert not [n for n, _ in encoder.named_parameters() if n.startswith("features")]
    x, mask = encoder.train()(codec.collate(values))
    (x.masked_fill(~mask[..., None], 0) * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    all_learn(encoder)


def encoder_state(name: str) -> None:
    encoder, codec, values = encoder_of(name)
    torch.manual_seed(5)
    again = encoders.build(name, codec, WIDTH).eval()
    again.load_state_dict(encoder.state_dict())
    close(again(codec.collate(values))[0], encoder(codec.collate(values))[0], "loaded weights give other tokens")
