"""Every fusion: any views, any absence, nothing leaks, every parameter learns; and the figures of the papers."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import polyfuse.fusions  # noqa: F401  (files the parts)
from polyfuse.core import Fusion, RecipeError, Tokens, fusions, pooled, scatter

D = 16
LENGTHS = {"photo": 4, "note": 5, "table": 3}
ALL = fusions.names()


def tokens_of(views: list[str], rows: int = 6, seed: int = 0, width: int = D, absent: bool = True) -> Tokens:
    """Random tokens; with `absent`, row 0 has nothing, row 1 all, the others some. Every view has a row and an absent row."""
    g = torch.Generator().manual_seed(seed)
    parts = {}
    for v, view in enumerate(views):
        n = LENGTHS[view]
        has = torch.tensor([not absent or (r > 0 and (r == 1 or (r + v) % 3 > 0)) for r in range(rows)])
        at = has.nonzero()[:, 0]
        mask = torch.rand(len(at), n, generator=g) < 0.7
        mask[:, 0] = True
        parts[view] = (torch.randn(len(at), n, width, generator=g), mask, at)
    return scatter(parts, rows)


def built(name: str, views: list[str], width: int = D, seed: int = 1, **options) -> Fusion:
    torch.manual_seed(seed)
    return fusions.build(name, views, width, **options)


def some(tokens: Tokens, rows: list[int]) -> Tokens:
    return Tokens(tokens.x[rows], tokens.mask[rows], tokens.spans)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("views", [["photo"], ["photo", "note"], ["photo", "note", "table"]], ids=len)
def test_gives_a_finite_row_in_front(name, views):
    tokens = tokens_of(views)
    fused = built(name, views).eval()(tokens)
    assert fused.row.shape == (6, D)
    assert fused.spans["row"] == slice(0, 1) and list(fused.spans)[1:] == views
    assert fused.x.shape[1] == tokens.x.shape[1] + 1 == fused.mask.shape[1]
    assert fused.mask.dtype == torch.bool and fused.mask[:, 0].all() and torch.equal(fused.mask[:, 1:], tokens.mask)
    assert torch.isfinite(fused.x).all()
    assert all(torch.isfinite(v).all() for v in [*fused.losses.values(), *fused.notes.values()])
    assert all(loss.ndim == 0 for loss in fused.losses.values())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("junk", [7.0, math.nan, math.inf])
def test_values_under_a_false_mask_change_nothing(name, junk):
    tokens, fusion = tokens_of(list(LENGTHS)), built(name, list(LENGTHS)).eval()
    dirty = Tokens(tokens.x.masked_fill(~tokens.mask.unsqueeze(-1), junk), tokens.mask, tokens.spans)
    assert torch.equal(fusion(tokens).row, fusion(dirty).row)


@pytest.mark.parametrize("name", ALL)
def test_a_row_alone_is_the_row_in_a_batch(name):
    tokens, fusion = tokens_of(list(LENGTHS)), built(name, list(LENGTHS)).eval()
    together = fusion(tokens).row
    for r in range(6):
        torch.testing.assert_close(fusion(some(tokens, [r])).row[0], together[r], rtol=0, atol=1e-5)
    torch.testing.assert_close(fusion(some(tokens, [5, 3, 1])).row, together[[5, 3, 1]], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_padding_more_changes_nothing(name):
    tokens, fusion = tokens_of(["photo", "note"]), built(name, ["photo", "note"]).eval()
    parts = {v: (F.pad(tokens[v][0], (0, 0, 0, 3)), F.pad(tokens[v][1], (0, 3)), torch.arange(6)) for v in tokens.spans}
    torch.testing.assert_close(fusion(scatter(parts, 6)).row, fusion(tokens).row, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_hidden_is_the_same_as_never_had(name):
    fusion = built(name, ["photo", "note"]).eval()
    tokens = tokens_of(["photo", "note"], absent=False)
    hidden = fusion(tokens.hide({"note": torch.ones(6, dtype=torch.bool)})).row
    x, mask = tokens["photo"]
    never = scatter({"photo": (x, mask, torch.arange(6)),
                     "note": (torch.zeros(0, 1, D), torch.zeros(0, 1, dtype=torch.bool), torch.zeros(0, dtype=torch.long))}, 6)
    torch.testing.assert_close(hidden, fusion(never).row, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_every_view_can_change_the_answer(name):
    views = list(LENGTHS)
    fusion, tokens = built(name, views).eval(), tokens_of(views, absent=False)
    before = fusion(tokens).row
    for view in views:
        x = tokens.x.clone()
        x[:, tokens.spans[view]] = torch.randn(x[:, tokens.spans[view]].shape, generator=torch.Generator().manual_seed(9))
        assert (fusion(Tokens(x, tokens.mask, tokens.spans)).row - before).abs().amax(1).min() > 1e-6


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("views", [["photo"], ["photo", "note"], ["photo", "note", "table"]], ids=len)
@pytest.mark.parametrize("absent", [True, False], ids=["some absent", "complete"])
def test_every_parameter_gets_a_gradient(name, views, absent):
    fusion = built(name, views).train()
    fused = fusion(tokens_of(views, rows=24, absent=absent))
    ((fused.row * torch.randn(fused.row.shape, generator=torch.Generator().manual_seed(0))).sum() + sum(fused.losses.values())).backward()
    trained = {n: p for n, p in fusion.named_parameters() if p.requires_grad}
    assert trained
    assert [n for n, p in trained.items() if p.grad is None or not torch.isfinite(p.grad).all()] == []
    assert [n for n, p in trained.items() if not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("name", ALL)
def test_nothing_present_is_finite_and_learns(name):
    views = list(LENGTHS)
    fusion = built(name, views).train()
    nothing = Tokens(torch.zeros(3, 12, D, requires_grad=True), torch.zeros(3, 12, dtype=torch.bool), tokens_of(views).spans)
    fused = fusion(nothing)
    assert torch.isfinite(fused.row).all()
    fusion.eval()
    row = fusion(nothing).row
    torch.testing.assert_close(row[0], row[2])
    (row.sum() + sum(fused.losses.values())).backward()
    gradients = [p.grad for p in fusion.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients) and any(g.abs().sum() > 0 for g in gradients)


@pytest.mark.parametrize("name", ALL)
def test_a_batch_of_one_in_sixteen_bits_is_finite(name):
    views = list(LENGTHS)
    fusion = built(name, views).train()
    for rows in ([1], [0], [2]):
        tokens = some(tokens_of(views), rows)
        with torch.autocast("cpu", torch.bfloat16):
            fused = fusion(Tokens((tokens.x * 100).bfloat16(), tokens.mask, tokens.spans))
        total = fused.row.float().sum() + sum(loss.float() for loss in fused.losses.values())
        assert torch.isfinite(total)
        fusion.zero_grad()
        total.backward()
        assert all(torch.isfinite(p.grad).all() for p in fusion.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ALL)
def test_saved_and_loaded_gives_equal_answers(name):
    views = list(LENGTHS)
    first, second, tokens = built(name, views).eval(), built(name, views, seed=2).eval(), tokens_of(views)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(tokens).row, second(tokens).row)
    torch.testing.assert_close(built(name, views).eval()(tokens).row, first(tokens).row, rtol=0, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_docstring_has_what_a_reader_needs(name):
    text = fusions.get(name).__doc__
    for word in ("Source:", "Args:", "Shapes:", "Cost:"):
        assert word in text, word


@pytest.mark.parametrize("name", ALL)
def test_odd_width_works(name):
    fusion = built(name, ["photo", "note"], width=7).eval()
    assert fusion(tokens_of(["photo", "note"], width=7)).row.shape == (6, 7)


@pytest.mark.parametrize("name", [n for n in ALL if n in ("weighted", "attention", "gmu", "poe")])
def test_weights_of_the_present_views_sum_to_one(name):
    views = list(LENGTHS)
    tokens = tokens_of(views)
    weights, present = built(name, views).eval()(tokens).notes["weights"], tokens.present(views)
    torch.testing.assert_close(weights.sum(1), present.any(1).float())
    assert (weights[~present] == 0).all() and (weights[present] > 0).all()


def test_unknown_names_and_options_are_told():
    with pytest.raises(RecipeError, match="did you mean 'concat'"):
        fusions.build("cocnat", ["a"], D)
    with pytest.raises(RecipeError, match="did you mean 'dropout'"):
        fusions.build("concat", ["a"], D, dropuot=0.1)


# what the simple ones compute, by hand


def vectors(tokens: Tokens) -> tuple[Tensor, Tensor]:
    x, present = pooled(tokens, list(tokens.spans))
    return F.layer_norm(x, (x.shape[-1],)), present


@pytest.mark.parametrize("name", ["add", "multiply", "max", "weighted"])
@torch.no_grad()
def test_arithmetic_by_hand(name):
    views = list(LENGTHS)
    fusion, tokens = built(name, views).eval(), tokens_of(views)
    if name == "weighted":
        nn.init.normal_(fusion.scores)
    x, present = vectors(tokens)
    for b in range(6):
        own = [fusion.maps[v](x[b, v]) for v in range(3) if present[b, v]]
        mixed = torch.zeros(D)
        if name == "add":
            mixed = sum(own, mixed)
        elif name == "multiply":
            mixed = math.prod([1 + o for o in own], start=torch.ones(D))
        elif own and name == "max":
            mixed = torch.stack(own).amax(0)
        elif own:
            power = [math.exp(fusion.scores[v]) for v in range(3) if present[b, v]]
            mixed = sum(p / sum(power) * o for p, o in zip(power, own))
        expected = fusion.out(fusion.norm(mixed))
        torch.testing.assert_close(fusion(tokens).row[b], expected, rtol=1e-4, atol=1e-4)


def test_concat_tells_absent_from_zero():
    fusion = built("concat", ["photo", "note"]).eval()
    zero = Tokens(torch.zeros(1, 9, D), torch.ones(1, 9, dtype=torch.bool), {"photo": slice(0, 4), "note": slice(4, 9)})
    gone = zero.hide({"note": torch.ones(1, dtype=torch.bool)})
    assert (fusion(zero).row - fusion(gone).row).abs().max() > 1e-4


def test_a_product_of_many_views_does_not_overflow():
    views = [f"v{i}" for i in range(60)]
    fusion = built("multiply", views).eval()
    for m in fusion.maps:
        nn.init.constant_(m.bias, 50.0)
    tokens = scatter({v: (torch.randn(2, 1, D), torch.ones(2, 1, dtype=torch.bool), torch.arange(2)) for v in views}, 2)
    assert torch.isfinite(fusion(tokens).row).all()


# what they can and cannot express


def learned(name: str, truth, noise: float = 0.0, steps: int = 150, rows: int = 256, **options) -> float:
    """Accuracy, on rows not trained on, of a fusion and a linear head on two views that each show signs of one number."""
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 2 * rows, generator=g).unbind(0)
    code = torch.randn(2, 1, D, generator=g)
    x = torch.cat([a.view(-1, 1, 1).sign() * code[0], b.view(-1, 1, 1).sign() * code[1]], 1)
    x = x + noise * torch.randn(x.shape, generator=g)
    y = truth(a > 0, b > 0).long()
    tokens = Tokens(x, torch.ones(2 * rows, 2, dtype=torch.bool), {"one": slice(0, 1), "two": slice(1, 2)})
    fusion = built(name, ["one", "two"], **options)
    head = nn.Linear(D, 2)
    optimizer = torch.optim.AdamW([*fusion.parameters(), *head.parameters()], lr=3e-3)
    train = some(tokens, list(range(rows)))
    for _ in range(steps):
        optimizer.zero_grad()
        fused = fusion.train()(train)
        (F.cross_entropy(head(fused.row), y[:rows]) + sum(fused.losses.values())).backward()
        optimizer.step()
    answer = head(fusion.eval()(some(tokens, list(range(rows, 2 * rows)))).row).argmax(1)
    return (answer == y[rows:]).float().mean().item()


@pytest.mark.parametrize("name", ALL)
def test_learns_exclusive_or(name):
    assert learned(name, torch.logical_xor, noise=0.3) > 0.95


# blocks by hand, for the papers' formulas


def block_by_hand(block, x: Tensor, context: Tensor | None = None) -> Tensor:
    """One row, real tokens only: x [N, D], context [M, D] -> [N, D]; heads and softmax in plain loops."""
    source = x if context is None else context
    n, d = x.shape
    size = d // block.heads
    q = block.query(block.norm_query(x))
    k, v = block.keys_values(block.norm_context(source)).split(d, 1)
    out = torch.zeros(n, d)
    for h in range(block.heads):
        at = slice(h * size, (h + 1) * size)
        for i in range(n):
            scores = [math.exp((q[i, at] @ k[j, at]).item() / math.sqrt(size)) for j in range(len(source))]
            for j, score in enumerate(scores):
                out[i, at] += score / sum(scores) * v[j, at]
    x = x + (block.out(out) if len(source) else 0.0)
    return x + block.mlp(block.norm_mlp(x))


def real_tokens(tokens: Tokens, view: str, row: int) -> Tensor:
    """Normed real tokens of one view of one row."""
    x, mask = tokens[view]
    return F.layer_norm(x[row][mask[row]], (x.shape[-1],))


@torch.no_grad()
def test_bottleneck_by_hand():
    """Nagrani et al. 2021, eq. 8-9."""
    views = list(LENGTHS)
    fusion, tokens = built("bottleneck", views).eval(), tokens_of(views)
    row = fusion(tokens).row
    for b in range(6):
        own = {v: real_tokens(tokens, v, b) + fusion.embedding[i] for i, v in enumerate(views) if tokens[v][1][b].any()}
        shared = fusion.latents
        for layer in fusion.layers:
            passed = []
            for view in own:
                z = block_by_hand(layer[views.index(view)], torch.cat([own[view], shared]))
                own[view] = z[: -len(shared)]
                passed.append(z[-len(shared):])
            shared = sum(passed) / len(passed) if passed else shared
        torch.testing.assert_close(row[b], fusion.norm(shared.mean(0)), rtol=0, atol=1e-5)
