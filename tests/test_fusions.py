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
LATE = [name for name in ALL if fusions.get(name).level == "decision"]


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
    behind = tokens.present(views) if name in LATE else tokens.mask  # at decision level one token per view is left of it
    assert fused.x.shape[1] == behind.shape[1] + 1 == fused.mask.shape[1]
    assert fused.mask.dtype == torch.bool and fused.mask[:, 0].all() and torch.equal(fused.mask[:, 1:], behind)
    assert torch.isfinite(fused.x).all()
    assert all(torch.isfinite(v).all() for v in [*fused.losses.values(), *fused.notes.values()])
    assert all(loss.ndim == 0 for loss in fused.losses.values())
    assert tokens.losses == {} and tokens.notes == {}, "the tokens that went in are changed"


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
    never = scatter(
        {
            "photo": (x, mask, torch.arange(6)),
            "note": (torch.zeros(0, 1, D), torch.zeros(0, 1, dtype=torch.bool), torch.zeros(0, dtype=torch.long)),
        },
        6,
    )
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
    assert all(torch.isfinite(g).all() for g in gradients)
    if name in LATE:  # no view answers such a row, so none learns from it
        assert (row == 0).all() and all((g == 0).all() for g in gradients)
    else:
        assert any(g.abs().sum() > 0 for g in gradients)


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
        loss = F.cross_entropy(head(fused.row), y[:rows])
        if loss < 0.03:
            break
        (loss + sum(fused.losses.values())).backward()
        optimizer.step()
    answer = head(fusion.eval()(some(tokens, list(range(rows, 2 * rows)))).row).argmax(1)
    return (answer == y[rows:]).float().mean().item()


@pytest.mark.parametrize("name", ALL)
def test_learns_exclusive_or(name):
    if name in LATE:  # no view alone can know it
        assert learned(name, torch.logical_xor, noise=0.3) < 0.7
    else:
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
                passed.append(z[-len(shared) :])
            shared = sum(passed) / len(passed) if passed else shared
        torch.testing.assert_close(row[b], fusion.norm(shared.mean(0)), rtol=0, atol=1e-5)


@torch.no_grad()
def test_tensor_by_hand():
    """Zadeh et al. 2017, eq. 2."""
    fusion, tokens = built("tensor", list(LENGTHS), inner=4).eval(), tokens_of(list(LENGTHS))
    row, (x, present) = fusion(tokens).row, vectors(tokens)
    for b in range(6):
        h = [torch.cat([m(x[b, v]) * present[b, v], torch.ones(1)]) for v, m in enumerate(fusion.maps)]
        z = [h[0][i] * h[1][j] * h[2][k] for i in range(5) for j in range(5) for k in range(5)]
        torch.testing.assert_close(row[b], fusion.out(torch.stack(z)), rtol=0, atol=1e-5)


@torch.no_grad()
def test_lowrank_by_hand():
    """Liu et al. 2018, eq. 8; and it is a tensor of that rank."""
    fusion, tokens = built("lowrank", list(LENGTHS), rank=3).eval(), tokens_of(list(LENGTHS))
    row, (x, _) = fusion(tokens).row, vectors(tokens)
    for b in range(6):
        h = torch.zeros(D)
        for o in range(D):
            for r in range(3):
                product = fusion.ranks[r]
                for v in range(3):
                    z = [*x[b, v], 1.0]
                    product = product * sum(z[i] * fusion.factors[v, r, i, o] for i in range(D + 1))
                h[o] += product
        torch.testing.assert_close(row[b], fusion.out(fusion.norm(h)), rtol=0, atol=1e-5)


@torch.no_grad()
def test_gmu_by_hand():
    """Arevalo et al. 2017, section 3.1."""
    fusion, tokens = built("gmu", list(LENGTHS)).eval(), tokens_of(list(LENGTHS))
    fused, (x, present) = fusion(tokens), vectors(tokens)
    for b in range(6):
        everything, h = torch.cat(list(x[b])), torch.zeros(D)
        for v in range(3):
            if present[b, v]:
                hidden = torch.tanh(fusion.maps[v](x[b, v]))
                for d in range(D):
                    z = 1 / (1 + math.exp(-(fusion.gates.weight[v * D + d] @ everything + fusion.gates.bias[v * D + d])))
                    h[d] += z * hidden[d]
        torch.testing.assert_close(fused.row[b], fusion.out(fusion.norm(h)), rtol=0, atol=1e-5)


@torch.no_grad()
def test_film_by_hand():
    """Perez et al. 2018, eq. 2, token by token."""
    views = list(LENGTHS)
    fusion, tokens = built("film", views).eval(), tokens_of(views)
    row, (x, present) = fusion(tokens).row, vectors(tokens)
    for b in range(6):
        there = [v for v in range(3) if present[b, v]]
        context = sum((fusion.contexts[v](x[b, v]) for v in there), torch.zeros(D)) / max(len(there), 1)
        total = torch.zeros(D)
        for v in there:
            film, seen = fusion.films[v](context), real_tokens(tokens, views[v], b)
            for t in seen:
                inner = fusion.inner[v](t)
                for d in range(D):
                    total[d] += (t[d] + max((1 + film[d]) * inner[d] + film[D + d], 0.0)) / len(seen)
        torch.testing.assert_close(row[b], fusion.out(fusion.norm(total)), rtol=0, atol=1e-5)


@torch.no_grad()
def test_mult_by_hand():
    """Tsai et al. 2019, eq. 3-5."""
    views = list(LENGTHS)
    fusion, tokens = built("mult", views).eval(), tokens_of(views)
    row, present = fusion(tokens).row, tokens.present(views)
    for b in range(6):
        own, read = [real_tokens(tokens, v, b) for v in views], []
        for i in range(3):
            if not present[b, i]:
                read.append(torch.zeros(2 * D))
                continue
            seen = []
            for j in [j for j in range(3) if j != i]:
                z = own[i]
                for block in fusion.cross[i][[j for j in range(3) if j != i].index(j)]:
                    z = block_by_hand(block, z, own[j])
                seen.append(z)
            z = torch.cat(seen, 1)
            for block in fusion.own[i].blocks:
                z = block_by_hand(block, z)
            read.append(fusion.own[i].norm(z).mean(0))
        torch.testing.assert_close(row[b], fusion.out(torch.cat([*read, present[b].float()])), rtol=0, atol=1e-5)


@torch.no_grad()
def test_compact_bilinear_is_the_sketch_of_the_outer_product():
    """Fukui et al. 2016, section 3.1: the sketch of x (x) y is the convolution of the sketches."""
    fusion = built("mcb", ["photo", "note"], size=32).eval()
    tokens = tokens_of(["photo", "note"], absent=False)
    caught = []
    fusion.out.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    fusion(tokens)
    x, _ = vectors(tokens)
    for b in range(6):
        sketch = torch.zeros(32)
        for i in range(D):
            for j in range(D):
                at = (fusion.places[0, i] + fusion.places[1, j]) % 32
                sketch[at] += fusion.signs[0, i] * fusion.signs[1, j] * x[b, 0, i] * x[b, 1, j]
        rooted = sketch.sign() * sketch.abs().sqrt()
        torch.testing.assert_close(caught[0][b], rooted / rooted.norm() * math.sqrt(32), rtol=0, atol=1e-3)


@torch.no_grad()
def test_factorisation_machine_by_hand():
    """Rendle 2010, eq. 1: the sum over pairs, not the shortcut of lemma 3.1."""
    fusion, tokens = built("fm", list(LENGTHS)).eval(), tokens_of(list(LENGTHS))
    row, (x, present) = fusion(tokens).row, vectors(tokens)
    for b in range(6):
        e = [m(x[b, v]) for v, m in enumerate(fusion.maps)]
        pairs = sum((e[i] * e[j] for i in range(3) for j in range(i) if present[b, i] and present[b, j]), torch.zeros(D))
        expected = fusion.linear(torch.cat([x[b].flatten(), present[b].float()])) + fusion.pairs(pairs)
        torch.testing.assert_close(row[b], expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_product_of_experts_by_hand():
    """The density of a product of normals and the standard normal, on a grid."""
    fusion, tokens = built("poe", list(LENGTHS)).eval(), tokens_of(list(LENGTHS))
    mean, precision, present = fusion.believed(tokens)
    caught = []
    fusion.out.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    fusion(tokens)
    z = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    for b in range(6):
        for d in range(0, D, 5):
            log = -0.5 * z**2
            for v in range(3):
                if present[b, v]:
                    log = log - 0.5 * precision[b, v, d].double() * (z - mean[b, v, d].double()) ** 2
            p = (log - log.max()).exp()
            assert caught[0][b, d].item() == pytest.approx(((p * z).sum() / p.sum()).item(), abs=1e-4)


def test_mixture_of_single_views_is_their_average():
    fusion, tokens = built("mopoe", list(LENGTHS), largest=1).eval(), tokens_of(list(LENGTHS), absent=False)
    mean, precision, _ = fusion.believed(tokens)
    expected = (precision * mean / (1 + precision)).mean(1)
    torch.testing.assert_close(fusion(tokens).row, fusion.out(expected), rtol=0, atol=1e-5)
    assert built("mopoe", [f"v{i}" for i in range(9)]).subsets.shape == (9 + 36 + 1, 9)


def test_transport_plan_carries_all_tokens_and_finds_the_partners():
    from polyfuse.fusions.alignment import transport_plan

    order, mask_b = torch.tensor([2, 0, 3, 1]), torch.tensor([[True] * 4 + [False] * 2])
    x = F.normalize(torch.randn(1, 4, D, generator=torch.Generator().manual_seed(0)), dim=-1)
    y = torch.cat([x[:, order], torch.full((1, 2, D), 9.0)], 1)
    plan = transport_plan(1 - x @ y.transpose(1, 2), torch.ones(1, 4, dtype=torch.bool), mask_b, 0.05, 100)
    torch.testing.assert_close(plan.sum(2), torch.full((1, 4), 0.25), rtol=0, atol=1e-4)
    assert (plan[0, :, 4:] == 0).all()
    torch.testing.assert_close(plan[0, :, :4], torch.eye(4)[order].T / 4, rtol=0, atol=1e-2)
    nothing = transport_plan(torch.zeros(1, 4, 6), torch.zeros(1, 4, dtype=torch.bool), mask_b, 0.05, 5)
    assert (nothing == 0).all()


def test_mixture_of_experts_is_sparse_and_balance_is_least_when_even():
    fusion, tokens = built("moe", list(LENGTHS), experts=5, chosen=2), tokens_of(list(LENGTHS), rows=30)
    fused = fusion(tokens)
    gates = fused.notes["experts"]
    assert ((gates > 0).sum(1) == 2).all()
    torch.testing.assert_close(gates.sum(1), torch.ones(30))
    nn.init.zeros_(fusion.router.weight)
    nn.init.zeros_(fusion.router.bias)
    assert fusion(tokens).losses["balance"].item() == pytest.approx(0.01, abs=1e-4)
    fusion.router.bias.data[:2] = 20.0
    assert fusion(tokens).losses["balance"].item() == pytest.approx(0.01 * 5 / 2, abs=1e-3)


def test_adaptation_gate_shifts_the_main_view_by_no_more_than_its_share():
    views, tokens = list(LENGTHS), tokens_of(list(LENGTHS), absent=False)
    still, pushed = built("mag", views, main="note", beta=0.0).eval(), built("mag", views, main="note", beta=0.5).eval()
    x, _ = vectors(tokens)
    z = still.start + x[:, 1]
    torch.testing.assert_close(still(tokens).row, still.out(still.norm(z)), rtol=0, atol=1e-5)
    for m in pushed.maps:
        m.weight.data *= 100
    caught = []
    pushed.norm.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    pushed(tokens)
    torch.testing.assert_close((caught[0] - z).norm(dim=1), 0.5 * z.norm(dim=1), rtol=1e-3, atol=1e-3)
    with pytest.raises(RecipeError, match="unknown main view 'nte'.*did you mean 'note'"):
        built("mag", views, main="nte")


def test_reversed_gradient_opposes_the_adversary():
    fusion, tokens = built("invariant", ["photo", "note"], dropout=0.0).train(), tokens_of(["photo", "note"], absent=False)

    def told() -> float:
        return fusion(tokens).losses["adversary"].item()

    before = told()
    fusion(tokens).losses["adversary"].backward()
    with torch.no_grad():
        for p in fusion.tell.parameters():
            p -= 0.05 * p.grad
    assert told() < before  # the adversary learns
    fusion.zero_grad()
    middle = fusion(tokens).losses["adversary"]
    middle.backward()
    with torch.no_grad():
        for part in (fusion.shared, fusion.maps):
            for p in part.parameters():
                p -= 0.5 * p.grad
    assert told() > middle.item()  # the features learn to fool it


def test_a_view_that_another_tells_is_made_up():
    """The second view is a function of the first: after training on its losses, what is made comes near it."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, 1, D, generator=g)
    tokens = Tokens(torch.cat([x, x.flip(2)], 1), torch.ones(64, 2, dtype=torch.bool), {"one": slice(0, 1), "two": slice(1, 2)})
    fusion = built("generate", ["one", "two"], adversary=0.0)
    optimizer = torch.optim.Adam(fusion.parameters(), lr=1e-2)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        found = fusion(tokens).losses
        losses.append(found["reconstruct"].item())
        sum(found.values()).backward()
        optimizer.step()
    assert losses[-1] < 0.15 * losses[0]


@pytest.mark.parametrize("name", ["invariant", "generate", "poe", "mopoe", "shared-private"])
def test_auxiliary_losses_are_for_training_alone(name):
    fusion, tokens = built(name, ["photo", "note"]), tokens_of(["photo", "note"])
    assert fusion.train()(tokens).losses and not fusion.eval()(tokens).losses


def test_tensor_of_many_views_shrinks_and_then_refuses():
    assert built("tensor", [f"v{i}" for i in range(6)]).maps[0].out_features == 3
    with pytest.raises(RecipeError, match="2\\^13 entries.*12 views or fewer.*lowrank"):
        built("tensor", [f"v{i}" for i in range(13)])
    with pytest.raises(RecipeError, match="chooses 5 of 4"):
        built("moe", ["a"], chosen=5)
