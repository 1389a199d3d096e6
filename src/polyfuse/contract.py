"""The contract of DESIGN as checks that run on every registered part, ours and a user's (`polyfuse check FILE`).

A check raises AssertionError with what is wrong. A part that cannot meet one says so in `exempt` with the reason.
"""

import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import parts as _parts  # noqa: F401  fills the registries
from .core import (
    Cells,
    Codec,
    Draws,
    Encoder,
    Error,
    Fusion,
    Registry,
    TableCodec,
    TabularCodec,
    Task,
    Tokens,
    codecs,
    encoders,
    fusions,
    option_names,
    tasks,
)
from .plugins import load_plugin

WIDTH = 32
VIEWS = {"a": 2, "b": 1, "c": 3}  # the made-up views a fusion is tried on, with their number of tokens
REGISTRIES: dict[str, Registry] = {"modalities": codecs, "encoders": encoders, "fusions": fusions, "tasks": tasks}


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


def tokens_of(rows: int = 8, seed: int = 0, missing: float = 0.3) -> Tokens:
    """Random tokens of the made-up views, some absent; the first row has all, the last nothing."""
    generator = torch.Generator().manual_seed(seed)
    masks, spans, at = [], {}, 0
    for view, n in VIEWS.items():
        here = torch.rand(rows, 1, generator=generator) >= missing
        mask = here & (torch.rand(rows, n, generator=generator) >= 0.2)
        mask[:, 0] |= here[:, 0]
        masks.append(mask)
        spans[view] = slice(at, at + n)
        at += n
    mask = torch.cat(masks, 1)
    mask[0], mask[-1] = True, False
    x = torch.randn(rows, at, WIDTH, generator=generator)
    return Tokens(x.masked_fill(~mask.unsqueeze(-1), 0.0), mask, spans)


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
    key = "present" if isinstance(codec, TableCodec) else "mask"
    if key not in x:
        return
    out, mask = encoder({k: v.clone() for k, v in x.items()})
    for junk in (7.0, float("nan")):
        dirty = {k: v.clone() for k, v in x.items()}
        if isinstance(codec, TableCodec):
            dirty["value"][~x["present"][:, codec.number_owner]] = junk
            dirty["index"][~x["present"][:, codec.index_owner]] = 1
        else:
            for k, v in dirty.items():
                if k != key and v.shape[:2] == x[key].shape and (v.is_floating_point() or junk == 7.0) and v.dtype != torch.bool:
                    v[~x[key]] = junk if v.is_floating_point() else 1
        again, m = encoder(dirty)
        assert torch.equal(mask, m), "the mask depends on values under a false mask"
        _close(again.masked_fill(~m[..., None], 0), out.masked_fill(~mask[..., None], 0), f"{junk} under a false mask changes tokens")


def encoder_filler_finite(name: str) -> None:
    encoder, codec, _ = encoder_of(name)
    x, _mask = encoder(codec.collate([codec.filler(), codec.filler()]))
    assert torch.isfinite(x).all(), "fillers give tokens that are not finite"


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
        dirty = torch.where(tokens.mask.unsqueeze(-1), tokens.x, torch.full_like(tokens.x, junk))
        _close(fusion(Tokens(dirty, tokens.mask, tokens.spans)).row, clean, f"{junk} under a false mask changes the answer")


def fusion_row_alone(name: str) -> None:
    fusion, tokens = fusion_of(name), tokens_of()
    whole = fusion(tokens).row
    for i in range(len(whole)):
        one = fusion(Tokens(tokens.x[i : i + 1], tokens.mask[i : i + 1], tokens.spans)).row[0]
        _close(one, whole[i], "a row alone differs from the row in a batch")


def fusion_every_view(name: str) -> None:
    fusion, tokens = fusion_of(name), tokens_of(missing=0.0)
    base = fusion(tokens).row[0]
    for view, span in tokens.spans.items():
        x = tokens.x.clone()
        x[:, span] = torch.randn(x[:, span].shape, generator=torch.Generator().manual_seed(9))
        assert not torch.allclose(fusion(Tokens(x, tokens.mask, tokens.spans)).row[0], base, atol=1e-6), f"view '{view}' changes nothing"
        hidden = tokens.hide({view: torch.ones(len(x), dtype=torch.bool)})
        assert not torch.allclose(fusion(hidden).row[0], base, atol=1e-6), f"hiding view '{view}' changes nothing"


def fusion_one_view(name: str) -> None:
    tokens = tokens_of()
    fusion = fusion_of(name, ["a"])
    row = fusion(Tokens(tokens.x[:, :2], tokens.mask[:, :2], {"a": slice(0, 2)})).row
    assert row.shape == (8, WIDTH) and torch.isfinite(row).all(), "one view alone does not work"


def fusion_gradients(name: str) -> None:
    fusion, tokens = fusion_of(name).train(), tokens_of(16)
    fused = fusion(tokens)
    loss = (fused.row * torch.randn(fused.row.shape, generator=torch.Generator().manual_seed(1))).sum()
    (loss + sum(fused.losses.values())).backward()
    _all_learn(fusion)


def fusion_half_precision(name: str) -> None:
    fusion, tokens = fusion_of(name).train(), tokens_of()
    with torch.autocast("cpu", torch.bfloat16):
        fused = fusion(tokens)
    (fused.row.float().sum() + sum(v.float() for v in fused.losses.values())).backward()
    assert torch.isfinite(fused.row).all(), "not finite under bfloat16"
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in fusion.parameters()), "a gradient is not finite under bfloat16"


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


def _group(prefix: str) -> dict[str, Callable[[str], None]]:
    return {
        k: v
        for k, v in globals().items()
        if k.startswith(prefix + "_") and inspect.isfunction(v) and k not in ("encoder_of", "fusion_of", "task_of")
    }


CHECKS = {"modalities": _group("codec"), "encoders": _group("encoder"), "fusions": _group("fusion"), "tasks": _group("task")}


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


def list_parts(kind: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """{noun: [{"name", "summary", "options": {option: default}, "doc"}]}."""
    registry: Registry = Registry("kind")
    for noun in REGISTRIES:
        registry(noun)(type(noun, (), {}))
    if kind is not None:
        registry.get(kind)
    out = {}
    for noun in [kind] if kind else REGISTRIES:
        entries = []
        for name in REGISTRIES[noun].names():
            part = REGISTRIES[noun].get(name)
            parameters = inspect.signature(part).parameters
            doc = inspect.cleandoc(part.__doc__ or "")
            entries.append(
                {
                    "name": name,
                    "summary": doc.split("\n")[0],
                    "options": {o: _plain(parameters[o].default) for o in option_names(part)},
                    "doc": doc,
                }
            )
        out[noun] = entries
    return out


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _close(a: Tensor, b: Tensor, what: str) -> None:
    assert a.shape == b.shape, f"{what}: shapes {tuple(a.shape)} and {tuple(b.shape)}"
    assert torch.allclose(a, b, atol=1e-5, rtol=1e-4), f"{what}, by {float((a - b).detach().abs().max()):.2g}"


def _same_value(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    for k in b:
        assert np.array_equal(a[k], b[k]), f"after load_state '{k}' is cleaned differently"


def _all_learn(part: Any) -> None:
    dead = [n for n, p in part.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)]
    assert not dead, f"no gradient reaches {', '.join(dead)}"
