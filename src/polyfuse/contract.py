"""The contract of DESIGN as checks that run on every registered part, ours and a user's (`polyfuse check FILE`).

A check raises AssertionError with what is wrong. A part that cannot meet one says so in `exempt` with the reason.
"""

import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import parts as _parts  # noqa: F401  fills the registries
from .core import (
    Batch,
    Cells,
    Codec,
    Draws,
    Encoder,
    Error,
    Fusion,
    Objective,
    Registry,
    TableCodec,
    TabularCodec,
    Task,
    Tokens,
    codecs,
    encoders,
    fusions,
    objectives,
    tasks,
)
from .core.codec import MOST_DEEP
from .plugins import load_plugin

WIDTH = 32
VIEWS = {"a": 2, "b": 1, "c": 3}  # the made-up views a fusion is tried on, with their number of tokens
REGISTRIES: dict[str, Registry] = {"modalities": codecs, "encoders": encoders, "fusions": fusions, "tasks": tasks, "objectives": objectives}


# -- making parts -----------------------------------------------------------------------------------------------


def fitted(modality: str) -> tuple[Codec, list[Any]]:
    """A codec fitted on its own examples, and its cleaned values."""
    if modality == "table":
        members = [fitted(m) for m in codecs.names() if issubclass(codecs.get(m), TabularCodec)]
        table = TableCodec("table", [codec for codec, _ in members])  # type: ignore[misc]
        rows = [{c.column: values[i % len(values)] for c, values in members} for i in range(6)]
        del rows[1][members[0][0].column], rows[2][members[-1][0].column]  # cells that are absent
        return table, rows
    codec = codecs.build(modality, modality)
    codec.fit(v for raw in codec.examples() if (v := codec.read(raw)) is not None)
    return codec, [codec.clean(v) for raw in codec.examples() if (v := codec.read(raw)) is not None]


def encoder_of(name: str) -> tuple[Encoder, Codec, list[Any]]:
    torch.manual_seed(0)
    codec, values = fitted(encoders.get(name).modality)
    encoder = encoders.build(name, codec, WIDTH)
    encoder.fit([codec.collate(values)])
    return _stirred(encoder), codec, values


def fusion_of(name: str, views: list[str] | None = None) -> Fusion:
    torch.manual_seed(0)
    return _stirred(fusions.build(name, views or list(VIEWS), WIDTH))


def tokens_of(rows: int = 8, seed: int = 0, missing: float = 0.3, depths: int = 2) -> Tokens:
    """Random tokens of the made-up views, some absent; the first row has all, the last nothing. Depths have more tokens."""
    generator = torch.Generator().manual_seed(seed)
    here = torch.rand(rows, len(VIEWS), generator=generator) >= missing
    here[0], here[-1] = True, False
    last, *earlier = [_tokens(here, 1 + depth, generator) for depth in range(depths + 1)]
    return replace(last, depths=tuple(earlier))


def _tokens(here: Tensor, each: int, generator: torch.Generator) -> Tokens:
    """Tokens of the views and rows that are `here` [B, V], `each` times as many as VIEWS says, one in five masked."""
    masks, spans, at = [], {}, 0
    for v, (view, n) in enumerate(VIEWS.items()):
        mask = here[:, v : v + 1] & (torch.rand(len(here), n * each, generator=generator) >= 0.2)
        mask[:, 0] = here[:, v]
        masks.append(mask)
        spans[view] = slice(at, at + n * each)
        at += n * each
    mask = torch.cat(masks, 1)
    x = torch.randn(*mask.shape, WIDTH, generator=generator)
    return Tokens(x.masked_fill(~mask.unsqueeze(-1), 0.0), mask, spans)


def _everywhere(change: Callable[[Tokens], Tokens], tokens: Tokens) -> Tokens:
    """The change made to the tokens and to each of their depths."""
    return replace(change(tokens), depths=tuple(change(level) for level in tokens.depths))


def _with_noise(tokens: Tokens, view: str) -> Tokens:
    """Other values in the place of one view's tokens."""
    x, span = tokens.x.clone(), tokens.spans[view]
    x[:, span] = torch.randn(x[:, span].shape, generator=torch.Generator().manual_seed(9))
    return replace(tokens, x=x)


def task_of(name: str) -> tuple[Task, Codec, list[Any]]:
    torch.manual_seed(0)
    codec, values = fitted(tasks.get(name).modalities[0])
    if name == "binary":  # exactly two classes
        raws = codec.examples()[:2] * 3
        codec = codecs.build(codec.name, codec.column)
        read = [codec.read(r) for r in raws]
        codec.fit(iter(read))
        values = [codec.clean(v) for v in read]
    task = tasks.build(name, codec, WIDTH)
    task.fit(codec.collate(values))
    return task, codec, values


def objective_of(name: str, views: list[str] | None = None) -> tuple[Objective, Batch]:
    """The objective on the made-up views, fitted, and the labels of 8 rows, of which two are missing: one target of two classes."""
    task, codec, values = task_of("binary")
    objective = objectives.build(name, views or list(VIEWS), WIDTH, {"label": codec}, lambda target: type(task)(codec, WIDTH))
    truth = codec.collate(values)
    objective.fit({"label": truth})
    return _stirred(objective), Batch({"label": Cells(truth, torch.tensor([0, 1, 2, 4, 5, 6]), 8)}, 8)


def _stirred(part: Any) -> Any:
    """In eval mode, with weights that start at zero moved a little: they would hide faults."""
    with torch.no_grad():
        for p in part.parameters():
            if p.numel() and p.abs().sum() == 0:
                p.add_(torch.randn_like(p) * 0.1)
    return part.eval()


# -- codecs -----------------------------------------------------------------------------------------------------


def codec_state_is_json(name: str) -> None:
    codec, values = fitted(name)
    state = json.loads(json.dumps(codec.state()))
    again = codecs.build(name, name)
    again.load_state(state)
    for raw, value in zip(codec.examples(), values):
        _same_value(again.clean(again.read(raw)), value)


def codec_missing_is_none(name: str) -> None:
    codec = codecs.build(name, name)
    assert codec.read(None) is None, "read(None) must be None"


def codec_fits_nothing(name: str) -> None:
    codec = codecs.build(name, name)
    codec.fit(iter(()))
    json.dumps(codec.state())


def codec_filler_collates(name: str) -> None:
    codec, values = fitted(name)
    whole, one = codec.collate([codec.filler(), *values]), codec.collate(values)
    assert set(whole) == set(one), f"the filler has {set(whole)}, a cell {set(one)}"
    for k, v in whole.items():
        assert v.dtype == one[k].dtype, f"the filler's '{k}' is {v.dtype}, a cell's {one[k].dtype}"
        assert not v.is_floating_point() or torch.isfinite(v).all(), f"'{k}' is not finite"


def codec_refuses_clearly(name: str) -> None:
    codec, _ = fitted(name)
    for wrong in (b"", b"\x00\x01garbage" * 3, object(), float("nan"), {"x": object()}, [object()], "\ud800", np.zeros(0)):
        try:
            value = codec.read(wrong)
            if value is not None:
                for array in codec.clean(value).values():
                    assert not np.issubdtype(array.dtype, np.floating) or np.isfinite(array).all(), f"{wrong!r} became {array}"
        except Error as error:
            assert codec.column in str(error), f"the message does not name the column: {error}"


def codec_augment_keeps_form(name: str) -> None:
    codec, values = fitted(name)
    x = codec.collate(values)
    before = {k: v.clone() for k, v in x.items()}
    changed = [codec.augment({k: v.clone() for k, v in x.items()}, Draws(1, 2, name, np.arange(len(values)))) for _ in range(2)]
    for k, v in before.items():
        assert changed[0][k].shape == v.shape and changed[0][k].dtype == v.dtype, f"'{k}' changed its form"
        assert torch.equal(changed[0][k], changed[1][k]), f"'{k}': the same draws gave other values"


def codec_noise_keeps_form(name: str) -> None:
    codec, values = fitted(name)
    x = codec.collate(values)
    none, full, again = (codec.noise(codec.collate(values), level, Draws(1, 2, name, np.arange(len(values)))) for level in (0.0, 1.0, 1.0))
    assert any(not torch.equal(full[k], v) for k, v in x.items()), "level 1 changes nothing: override `noise`"
    for k, v in x.items():
        assert torch.equal(none[k], v) and torch.equal(full[k], again[k]), f"'{k}': changed at level 0, or others by the same draws"
        assert full[k].shape == v.shape and full[k].dtype == v.dtype, f"'{k}' changed its form"
        assert v.dtype != torch.bool or torch.equal(full[k], v), f"the mask '{k}' changed"
        assert not v.is_floating_point() or torch.isfinite(full[k]).all(), f"'{k}' is not finite"


# -- encoders ---------------------------------------------------------------------------------------------------


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
        _close(
            one[0].masked_fill(~m[0, :, None], 0), x[i, :n].masked_fill(~m[0, :, None], 0), "a row alone differs from the row in a batch"
        )


def encoder_ignores_padding(name: str) -> None:
    encoder, codec, values = encoder_of(name)
    x = codec.collate(values)
    out, mask = encoder({k: v.clone() for k, v in x.items()})
    for dirty in _with_junk(codec, x):
        again, m = encoder(dirty)
        assert torch.equal(mask, m), "the mask depends on values under a false mask"
        _close(again.masked_fill(~m[..., None], 0), out.masked_fill(~mask[..., None], 0), "what lies under a false mask changes tokens")


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
    _close(deep.x, plain.x, "with earlier layers the tokens differ")
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
            _close(one[0], h[i, :n], "a depth of a row alone differs from the row in a batch")
    for dirty in _with_junk(codec, x):
        for (h, mask), (again, m) in zip(deep.depths, encoder.features(dirty).depths, strict=True):
            assert torch.equal(mask, m), "a depth's mask depends on values under a false mask"
            _close(again, h, "what lies under a false mask changes a depth")
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
    _all_learn(encoder)


def encoder_state(name: str) -> None:
    encoder, codec, values = encoder_of(name)
    torch.manual_seed(5)
    again = encoders.build(name, codec, WIDTH).eval()
    again.load_state_dict(encoder.state_dict())
    _close(again(codec.collate(values))[0], encoder(codec.collate(values))[0], "loaded weights give other tokens")


# -- fusions ----------------------------------------------------------------------------------------------------


def fusion_row(name: str) -> None:
    fused = fusion_of(name)(tokens_of())
    assert "row" in fused.spans and fused.row.shape == (8, WIDTH), "no span 'row' of [B, D]"
    assert fused.x.shape[:2] == fused.mask.shape and fused.mask[:, fused.spans["row"]].all(), "the span 'row' must be real in every row"
    assert torch.isfinite(fused.row).all(), "not finite (the last row has nothing present)"


def fusion_hidden_values(name: str) -> None:
    fusion, tokens = fusion_of(name), tokens_of()
    clean = fusion(tokens).row
    for junk in (1e4, float("nan")):
        dirty = _everywhere(lambda t, junk=junk: replace(t, x=t.x.masked_fill(~t.mask.unsqueeze(-1), junk)), tokens)  # type: ignore[misc]
        _close(fusion(dirty).row, clean, f"{junk} under a false mask changes the answer")


def fusion_row_alone(name: str) -> None:
    fusion, tokens = fusion_of(name), tokens_of()
    whole = fusion(tokens).row
    for i in range(len(whole)):
        one = _everywhere(lambda t, i=i: replace(t, x=t.x[i : i + 1], mask=t.mask[i : i + 1]), tokens)  # type: ignore[misc]
        _close(fusion(one).row[0], whole[i], "a row alone differs from the row in a batch")


def fusion_every_view(name: str) -> None:
    fusion, tokens = fusion_of(name), tokens_of(missing=0.0)
    base = fusion(tokens).row[0]
    for view in tokens.spans:
        assert not torch.allclose(fusion(_with_noise(tokens, view)).row[0], base, atol=1e-6), f"view '{view}' changes nothing"
        hidden = tokens.hide({view: torch.ones(len(tokens.x), dtype=torch.bool)})
        assert not torch.allclose(fusion(hidden).row[0], base, atol=1e-6), f"hiding view '{view}' changes nothing"


def fusion_depths(name: str) -> None:
    """What it asks for it uses, each depth of each view; and it works on tokens that come without."""
    fusion = fusion_of(name)
    tokens = tokens_of(missing=0.0, depths=fusion.depths)
    base = fusion(tokens).row[0]
    for at, level in enumerate(tokens.depths):
        for view in level.spans:
            other = replace(tokens, depths=(*tokens.depths[:at], _with_noise(level, view), *tokens.depths[at + 1 :]))
            assert not torch.allclose(fusion(other).row[0], base, atol=1e-6), f"depth {at + 1} of view '{view}' changes nothing"
    assert torch.isfinite(fusion(replace(tokens, depths=())).row).all(), "not finite where the tokens have no depths"


def fusion_one_view(name: str) -> None:
    tokens = tokens_of()
    fusion = fusion_of(name, ["a"])
    alone = _everywhere(lambda t: replace(t, x=t["a"][0], mask=t["a"][1], spans={"a": t.spans["a"]}), tokens)  # "a" is the first
    row = fusion(alone).row
    assert row.shape == (8, WIDTH) and torch.isfinite(row).all(), "one view alone does not work"


def fusion_gradients(name: str) -> None:
    for depths in (2, 0):
        fusion, tokens = fusion_of(name).train(), tokens_of(16, depths=depths)
        fused = fusion(tokens)
        loss = (fused.row * torch.randn(fused.row.shape, generator=torch.Generator().manual_seed(1))).sum()
        (loss + sum(fused.losses.values())).backward()
        _all_learn(fusion)


def fusion_half_precision(name: str) -> None:
    """Forward and backward in training, in 32 bits and in both formats of 16: a batch, a batch of one, and one with nothing present."""
    whole = tokens_of()
    for what, rows in {"a batch": slice(None), "a batch of one": slice(0, 1), "nothing present": slice(-1, None)}.items():
        tokens = _everywhere(lambda t, rows=rows: replace(t, x=t.x[rows], mask=t.mask[rows]), whole)  # type: ignore[misc]
        for kind in (torch.float32, torch.bfloat16, torch.float16):
            fusion = fusion_of(name).train()
            with torch.autocast("cpu", kind, enabled=kind != torch.float32):
                fused = fusion(tokens)
            (fused.row.float().sum() + sum(v.float() for v in fused.losses.values())).backward()
            assert torch.isfinite(fused.row).all(), f"{what}: not finite in {kind}"
            finite = [p.grad is None or torch.isfinite(p.grad).all() for p in fusion.parameters()]
            assert all(finite), f"{what}: a gradient is not finite in {kind}"


# -- tasks ------------------------------------------------------------------------------------------------------


def task_no_labels(name: str) -> None:
    task, codec, values = task_of(name)
    tokens = tokens_of(4).with_row(torch.randn(4, WIDTH))
    out = task(tokens)
    x = {k: v[:0] for k, v in codec.collate(values).items()}
    loss = task.loss(out, Cells(x, torch.zeros(0, dtype=torch.long), 4))
    loss.backward()
    assert float(loss.detach()) == 0.0, f"without labels the loss is {float(loss.detach())}"


def task_answers(name: str) -> None:
    task, codec, values = task_of(name)
    n = len(values)
    out = task(tokens_of(n).with_row(torch.randn(n, WIDTH)))
    answers = task.decode(out.detach())
    assert len(answers) == n and all("value" in a for a in answers), "one answer with a 'value' per row"
    json.dumps(answers)
    truth = Cells(codec.collate(values), torch.arange(n), n)
    scores = task.scores(out.detach(), truth)
    assert task.metric in scores, f"'{task.metric}' is not among {list(scores)}"
    json.dumps([scores, task.report(out.detach(), truth)])


def task_learns(name: str) -> None:
    """A linear head must learn a rule planted in the fused row."""
    task, codec, values = task_of(name)
    x = codec.collate([values[i % len(values)] for i in range(48)])
    truth = Cells(x, torch.arange(48), 48)
    key = next(iter(x))
    code = x[key].flatten(1).float()
    row = torch.zeros(48, WIDTH)
    for i in range(48):  # equal targets get equal rows
        row[i] = torch.randn(WIDTH, generator=torch.Generator().manual_seed(int(torch.unique(code, dim=0, return_inverse=True)[1][i])))
    tokens = tokens_of(48).with_row(row)
    first = float(task.loss(task(tokens), truth).detach())
    optimizer = torch.optim.Adam(task.parameters(), 0.05)
    for _ in range(150):
        optimizer.zero_grad()
        loss = task.loss(task(tokens), truth)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.7 * first, f"the loss went from {first:.3f} only to {float(loss.detach()):.3f}"


# -- objectives -------------------------------------------------------------------------------------------------


def _objective_loss(objective: Objective, tokens: Tokens, batch: Batch) -> Tensor:
    return objective(tokens, tokens.with_row(tokens.x.masked_fill(~tokens.mask.unsqueeze(-1), 0.0).mean(1)), batch)


def objective_scalar(name: str) -> None:
    objective, batch = objective_of(name)
    loss = _objective_loss(objective, tokens_of(), batch)
    assert loss.shape == () and torch.isfinite(loss), f"the loss is {loss}, not one finite figure"


def objective_nothing(name: str) -> None:
    """Where no row has any view there is nothing to learn from; where none has a label the loss is finite."""
    objective, batch = objective_of(name)
    nothing = Batch({"label": Cells({}, torch.zeros(0, dtype=torch.long), 8)}, 8)
    tokens = tokens_of(missing=1.0)
    tokens = tokens.hide({view: torch.ones(8, dtype=torch.bool) for view in VIEWS})
    tokens.x.requires_grad_()
    for labels in (batch, nothing):
        loss = _objective_loss(objective, tokens, labels)
        assert float(loss.detach()) == 0.0, f"without any cell the loss is {float(loss.detach())}"
        loss.backward()
        assert tokens.x.grad is None or torch.isfinite(tokens.x.grad).all(), "without any cell the gradient is not finite"
    assert torch.isfinite(_objective_loss(objective, tokens_of(), nothing)), "without any label the loss is not finite"


def objective_hidden_values(name: str) -> None:
    objective, batch = objective_of(name)
    tokens = tokens_of()
    clean = _objective_loss(objective, tokens, batch)
    for junk in (1e4, float("nan")):
        dirty = torch.where(tokens.mask.unsqueeze(-1), tokens.x, torch.full_like(tokens.x, junk))
        loss = _objective_loss(objective, Tokens(dirty, tokens.mask, tokens.spans), batch)
        _close(loss, clean, f"{junk} under a false mask changes the loss")


def objective_one_view(name: str) -> None:
    tokens = tokens_of()
    objective, batch = objective_of(name, ["a"])
    loss = _objective_loss(objective, Tokens(tokens.x[:, :2], tokens.mask[:, :2], {"a": slice(0, 2)}), batch)
    assert torch.isfinite(loss), "one view alone does not work"


def objective_gradients(name: str) -> None:
    objective, batch = objective_of(name)
    tokens = tokens_of()
    tokens.x.requires_grad_()
    _objective_loss(objective.train(), tokens, batch).backward()
    assert tokens.x.grad is not None and tokens.x.grad.abs().sum() > 0, "no gradient reaches the encoders"
    _all_learn(objective)


def objective_state(name: str) -> None:
    objective, batch = objective_of(name)
    again, _ = objective_of(name)
    with torch.no_grad():
        for p in again.parameters():
            p.add_(1.0)
    again.load_state_dict(objective.state_dict())
    _close(_objective_loss(again, tokens_of(), batch), _objective_loss(objective, tokens_of(), batch), "loaded weights give another loss")


def objective_half_precision(name: str) -> None:
    objective, batch = objective_of(name)
    tokens = tokens_of()
    tokens.x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = _objective_loss(objective.train(), tokens, batch)
    loss.float().backward()
    assert torch.isfinite(loss), "not finite under bfloat16"
    learned = [tokens.x, *objective.parameters()]
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in learned), "a gradient is not finite under bfloat16"


def _group(prefix: str) -> dict[str, Callable[[str], None]]:
    return {
        k: v
        for k, v in globals().items()
        if k.startswith(prefix + "_") and inspect.isfunction(v) and k not in ("encoder_of", "fusion_of", "task_of", "objective_of")
    }


CHECKS = {
    "modalities": _group("codec"),
    "encoders": _group("encoder"),
    "fusions": _group("fusion"),
    "tasks": _group("task"),
    "objectives": _group("objective"),
}


def all_checks() -> Iterator[tuple[str, str, str]]:
    """(noun, part, check) over every registered part."""
    for noun, registry in REGISTRIES.items():
        for name in registry.names():
            for check in CHECKS[noun]:
                yield noun, name, check


def run_check(noun: str, part: str, check: str) -> str | None:
    """None where it holds; the reason where the part is exempt; AssertionError where it fails."""
    exempt = REGISTRIES[noun].get(part).exempt  # type: ignore[attr-defined]
    reason = exempt.get(check, exempt.get("all"))
    if reason is None:
        CHECKS[noun][check](part)
    return reason


def check_file(path: str | Path) -> Iterator[tuple[str, str]]:
    """Load a user's file and run every check on the parts it brings: (name of the check, what is wrong or "")."""
    before = {noun: set(r.names()) for noun, r in REGISTRIES.items()}
    module = load_plugin(path)
    found = False
    for noun, registry in REGISTRIES.items():
        for name in registry.names():
            if name in before[noun] and registry.get(name).__module__ != module.__name__:
                continue
            for check in CHECKS[noun]:
                found = True
                try:
                    reason = run_check(noun, name, check)
                    yield f"{name} {check}" + (f" (exempt: {reason})" if reason else ""), ""
                except (AssertionError, Error, RuntimeError, TypeError, KeyError, IndexError, NotImplementedError, AttributeError) as error:
                    yield f"{name} {check}", f"{type(error).__name__}: {error}" if not isinstance(error, AssertionError) else str(error)
    if not found:
        yield str(path), "registers no part"


def _close(a: Tensor, b: Tensor, what: str) -> None:
    assert a.shape == b.shape, f"{what}: shapes {tuple(a.shape)} and {tuple(b.shape)}"
    assert torch.allclose(a, b, atol=1e-5, rtol=1e-4), f"{what}, by {float((a - b).detach().abs().max()):.2g}"


def _same_value(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    for k in b:
        assert np.array_equal(a[k], b[k]), f"after load_state '{k}' is cleaned differently"


def _all_learn(part: Any) -> None:
    dead = [n for n, p in part.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)]
    assert not dead, f"no gradient reaches {', '.join(dead)}"
