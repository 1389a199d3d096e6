"""What every fusion keeps."""

from dataclasses import replace

import torch

from .making import WIDTH, all_learn, close, everywhere, fusion_of, tokens_of, with_noise


def fusion_row(name: str) -> None:
    fused = fusion_of(name)(tokens_of())
    assert "row" in fused.spans and fused.row.shape == (8, WIDTH), "no span 'row' of [B, D]"
    assert fused.x.shape[:2] == fused.mask.shape and fused.mask[:, fused.spans["row"]].all(), "the span 'row' must be real in every row"
    assert torch.isfinite(fused.row).all(), "not finite (the last row has nothing present)"


def fusion_hidden_values(name: str) -> None:
    fusion, tokens = fusion_of(name), tokens_of()
    clean = fusion(tokens).row
    for junk in (1e4, float("nan")):
        dirty = everywhere(lambda t, junk=junk: replace(t, x=t.x.masked_fill(~t.mask.unsqueeze(-1), junk)), tokens)  # type: ignore[misc]
        close(fusion(dirty).row, clean, f"{junk} under a false mask changes the answer")


def fusion_row_alone(name: str) -> None:
    fusion, tokens = fusion_of(name), tokens_of()
    whole = fusion(tokens).row
    for i in range(len(whole)):
        one = everywhere(lambda t, i=i: replace(t, x=t.x[i : i + 1], mask=t.mask[i : i + 1]), tokens)  # type: ignore[misc]
        close(fusion(one).row[0], whole[i], "a row alone differs from the row in a batch")


def fusion_every_view(name: str) -> None:
    fusion, tokens = fusion_of(name), tokens_of(missing=0.0)
    base = fusion(tokens).row[0]
    for view in tokens.spans:
        assert not torch.allclose(fusion(with_noise(tokens, view)).row[0], base, atol=1e-6), f"view '{view}' changes nothing"
        hidden = tokens.hide({view: torch.ones(len(tokens.x), dtype=torch.bool)})
        assert not torch.allclose(fusion(hidden).row[0], base, atol=1e-6), f"hiding view '{view}' changes nothing"


def fusion_depths(name: str) -> None:
    """What it asks for it uses, each depth of each view; and it works on tokens that come without."""
    fusion = fusion_of(name)
    tokens = tokens_of(missing=0.0, depths=fusion.depths)
    base = fusion(tokens).row[0]
    for at, level in enumerate(tokens.depths):
        for view in level.spans:
            other = replace(tokens, depths=(*tokens.depths[:at], with_noise(level, view), *tokens.depths[at + 1 :]))
            assert not torch.allclose(fusion(other).row[0], base, atol=1e-6), f"depth {at + 1} of view '{view}' changes nothing"
    assert torch.isfinite(fusion(replace(tokens, depths=())).row).all(), "not finite where the tokens have no depths"


def fusion_one_view(name: str) -> None:
    tokens = tokens_of()
    fusion = fusion_of(name, ["a"])
    alone = everywhere(lambda t: replace(t, x=t["a"][0], mask=t["a"][1], spans={"a": t.spans["a"]}), tokens)  # "a" is the first
    row = fusion(alone).row
    assert row.shape == (8, WIDTH) and torch.isfinite(row).all(), "one view alone does not work"


def fusion_gradients(name: str) -> None:
    for depths in (2, 0):
        fusion, tokens = fusion_of(name).train(), tokens_of(16, depths=depths)
        fused = fusion(tokens)
        assert set(fused.losses) == set(fusion.losses), f"its losses are {sorted(fused.losses)}, its class names {sorted(fusion.losses)}"
        loss = (fused.row * torch.randn(fused.row.shape, generator=torch.Generator().manual_seed(1))).sum()
        (loss + sum(fused.losses.values())).backward()
        all_learn(fusion)


def fusion_half_precision(name: str) -> None:
    """Forward and backward in training, in 32 bits and in both formats of 16: a batch, a batch of one, and one with nothing present."""
    whole = tokens_of()
    for what, rows in {"a batch": slice(None), "a batch of one": slice(0, 1), "nothing present": slice(-1, None)}.items():
        tokens = everywhere(lambda t, rows=rows: replace(t, x=t.x[rows], mask=t.mask[rows]), whole)  # type: ignore[misc]
        for kind in (torch.float32, torch.bfloat16, torch.float16):
            fusion = fusion_of(name).train()
            with torch.autocast("cpu", kind, enabled=kind != torch.float32):
                fused = fusion(tokens)
            (fused.row.float().sum() + sum(v.float() for v in fused.losses.values())).backward()
            assert torch.isfinite(fused.row).all(), f"{what}: not finite in {kind}"
            finite = [p.grad is None or torch.isfinite(p.grad).all() for p in fusion.parameters()]
            assert all(finite), f"{what}: a gradient is not finite in {kind}"
