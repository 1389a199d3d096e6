"""Auxiliary objectives: their formulas by plain loops, what they teach, and the way from `fit` and the command line."""

import json
import math

import numpy as np
import pytest
import torch

import polyfuse as pf
from polyfuse import cli, contract
from polyfuse.core import Batch, Cells, Tokens, codecs, objectives, tasks
from polyfuse.recipe import parse_objectives

WIDTH, ROWS = 16, 12
VIEWS = {"a": 2, "b": 1, "c": 3}
QUICK = {"size": "s", "columns": {"a": "vector", "b": "vector"}}


def tokens_of(seed=0, missing=0.3, width=WIDTH):
    generator = torch.Generator().manual_seed(seed)
    masks, spans, at = [], {}, 0
    for view, n in VIEWS.items():
        masks.append((torch.rand(ROWS, 1, generator=generator) >= missing).expand(-1, n))
        spans[view] = slice(at, at + n)
        at += n
    mask = torch.cat(masks, 1).clone()
    return Tokens(torch.randn(ROWS, at, width, generator=generator).masked_fill(~mask.unsqueeze(-1), 0.0), mask, spans)


def target(labels, values=("no", "yes")):
    """A fitted category codec and the cells of `labels`, of which None is missing."""
    codec = codecs.build("category", "label")
    codec.fit(iter(values))
    rows = [i for i, v in enumerate(labels) if v is not None]
    cells = codec.collate([codec.clean(labels[i]) for i in rows]) if rows else {}
    return codec, Cells(cells, torch.tensor(rows, dtype=torch.long), len(labels))


def made(name, codecs_of, views=None, **options):
    torch.manual_seed(1)

    def make_task(t):
        return tasks.build("binary" if codecs_of[t].name == "category" else "regression", codecs_of[t], WIDTH)

    return objectives.build(name, views or list(VIEWS), WIDTH, codecs_of, make_task, **options).eval()


def loss_of(objective, tokens, cells, weight=None):
    return objective(tokens, tokens.with_row(tokens.x.mean(1)), Batch(cells, ROWS, weight))


def plain_vector(tokens, view, row):
    """The normed mean of one row's real tokens of one view as a list, or None where it has none."""
    x, mask = tokens[view]
    real = [x[row, n].tolist() for n in range(x.shape[1]) if mask[row, n]]
    if not real:
        return None
    mean = [sum(column) / len(real) for column in zip(*real)]
    centre = sum(mean) / len(mean)
    spread = sum((m - centre) ** 2 for m in mean) / len(mean)
    return [(m - centre) / math.sqrt(spread + 1e-5) for m in mean]


def unit(vector):
    return [v / math.sqrt(sum(w * w for w in vector)) for v in vector]


def dot(u, v):
    return sum(a * b for a, b in zip(u, v))


LABELS = ["yes", "no", None, "yes", "yes", "no", "yes", None, "no", "yes", "yes", "no"]


# -- formulas ---------------------------------------------------------------------------------------------------


def plain_contrastive(objective, tokens, labels, negatives):
    """Oord's and Zhai's losses, one row and one pair of views at a time."""
    scale, bias = math.exp(float(objective.sharpness.detach())), float(objective.bias.detach())
    z = {}
    for v, view in enumerate(VIEWS):
        for i in range(ROWS):
            vector = plain_vector(tokens, view, i)
            if vector is not None:
                z[view, i] = unit([dot(w, vector) for w in objective.maps[v].weight.tolist()])
    names, pairs = list(VIEWS), []
    for u, v in ((0, 1), (0, 2), (1, 2)):
        u, v = names[u], names[v]
        both = [i for i in range(ROWS) if (u, i) in z and (v, i) in z]
        yes, no = ([i for i in both if labels[i] == word] for word in ("yes", "no"))
        if not yes and (negatives == "batch" or not no):
            continue
        total = 0.0
        if negatives == "labelled":
            for i in yes + no:
                sign = 1 if i in yes else -1
                total += math.log(1 + math.exp(-sign * (scale * dot(z[u, i], z[v, i]) + bias))) / len(yes + no)
        else:
            for i in yes:
                own = math.exp(scale * dot(z[u, i], z[v, i]))
                there = sum(math.exp(scale * dot(z[u, i], z[v, j])) for j in yes)
                back = sum(math.exp(scale * dot(z[u, j], z[v, i])) for j in yes)
                total -= 0.5 * (math.log(own / there) + math.log(own / back)) / len(yes)
        pairs.append(total)
    return sum(pairs) / len(pairs)


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        (["yes"] * ROWS, {}),
        (LABELS, {"pairs": "label"}),
        (LABELS, {"pairs": "label", "negatives": "labelled"}),
    ],
)
def test_contrastive_is_its_formula(labels, options):
    codec, cells = target(labels)
    objective = made("contrastive", {"label": codec}, **options)
    with torch.no_grad():
        objective.bias.fill_(0.3 if options.get("negatives") else 0.0)
    tokens = tokens_of()
    expected = plain_contrastive(objective, tokens, labels, options.get("negatives", "batch"))
    assert float(loss_of(objective, tokens, {"label": cells}).detach()) == pytest.approx(expected, abs=1e-5)


def test_reconstruct_is_its_formula():
    tokens = tokens_of()
    objective = made("reconstruct", {})
    names, per_view = list(VIEWS), []
    for v, view in enumerate(names):
        errors = []
        for i in range(ROWS):
            own, others = plain_vector(tokens, view, i), [plain_vector(tokens, w, i) for w in names if w != view]
            if own is None or all(o is None for o in others):
                continue
            given = [x for o in others for x in [*(o or [0.0] * WIDTH), float(o is not None)]]
            told = objective.maps[v](torch.tensor([given]))[0].tolist()
            errors.append(sum((a - b) ** 2 for a, b in zip(told, own)) / WIDTH)
        per_view.append(sum(errors) / len(errors))
    assert float(loss_of(objective, tokens, {}).detach()) == pytest.approx(sum(per_view) / len(per_view), abs=1e-5)


def test_reconstruct_sends_no_gradient_into_what_is_to_be_rebuilt():
    tokens = tokens_of(missing=0.0)
    tokens.x.requires_grad_()
    objective = made("reconstruct", {})
    with torch.no_grad():  # the others' weights are zero, so that only the rebuilt view itself could pass a gradient on
        for m in objective.maps:
            m[0].weight.zero_()
    loss_of(objective, tokens, {}).backward()
    assert float(tokens.x.grad.abs().max()) == 0.0


def test_heads_are_the_mean_over_views_and_targets_of_the_rows_that_have_both():
    tokens = tokens_of()
    codec, cells = target(LABELS)
    number = codecs.build("number", "size")
    values = [float(i) for i in range(ROWS)]
    number.fit(iter(values))
    sized = Cells(number.collate([number.clean(v) for v in values[:9]]), torch.arange(9), ROWS)
    weight = torch.linspace(0.5, 2.0, ROWS)
    objective = made("heads", {"label": codec, "size": number})
    objective.fit({"label": cells.x, "size": sized.x})
    means = []
    for t, (name, truth) in enumerate((("label", cells), ("size", sized))):
        views = []
        for v, view in enumerate(VIEWS):
            total = weights = 0.0
            for k, i in enumerate(truth.rows.tolist()):
                vector = plain_vector(tokens, view, i)
                if vector is None:
                    continue
                head = objective.heads[t][v]
                out = head(Tokens(torch.tensor([[vector]]), torch.ones(1, 1, dtype=torch.bool), {"row": slice(0, 1)}))[0].detach().double()
                if name == "label":
                    loss = -float(out.log_softmax(0)[int(truth.x["index"][k, 0]) - 1])
                else:
                    loss = float(out[0] - truth.x["value"][k, 0]) ** 2
                total, weights = total + float(weight[i]) * loss, weights + float(weight[i])
            views.append(total / weights)
        means.append(sum(views) / len(views))
    found = loss_of(objective, tokens, {"label": cells, "size": sized}, weight)
    assert float(found.detach()) == pytest.approx(sum(means) / 2, abs=1e-5)
    assert set(objective.last) == {"label", "size"} and set(objective.last["label"]) == set(VIEWS)
    losses, rows = objective.last["size"]["b"]
    assert losses.shape == rows.shape and not losses.requires_grad


def test_rows_without_a_label_or_without_the_view_take_no_part():
    codec, cells = target(LABELS)
    tokens = tokens_of()
    for name, options in (("contrastive", {"pairs": "label"}), ("contrastive", {"pairs": "label", "negatives": "labelled"}), ("heads", {})):
        objective = made(name, {"label": codec}, **options)
        before = loss_of(objective, tokens, {"label": cells})
        x = tokens.x.clone()
        x[[i for i, v in enumerate(LABELS) if v is None]] += 5.0
        after = loss_of(objective, Tokens(x.masked_fill(~tokens.mask.unsqueeze(-1), 0.0), tokens.mask, tokens.spans), {"label": cells})
        assert torch.equal(before, after), name


def test_a_label_that_no_training_row_had_is_no_label():
    codec, cells = target(LABELS)
    unseen = [v or "perhaps" for v in LABELS]
    _, more = target(unseen)
    objective = made("contrastive", {"label": codec}, pairs="label")
    tokens = tokens_of()
    assert torch.equal(loss_of(objective, tokens, {"label": cells}), loss_of(objective, tokens, {"label": more}))


@pytest.mark.parametrize("name", ["contrastive", "heads", "reconstruct"])
def test_without_what_it_needs_the_loss_is_zero_and_has_a_gradient(name):
    codec, none = target([None] * ROWS)
    tokens = tokens_of(missing=1.1)
    tokens.x.requires_grad_()
    loss = loss_of(made(name, {"label": codec}), tokens, {"label": none})
    loss.backward()
    assert float(loss.detach()) == 0.0


# -- what they teach --------------------------------------------------------------------------------------------


def paired(n=64, seed=0):
    """Two views of one hidden vector, each through its own mixing, and whether a row's two belong together."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, 4))
    other = np.where(np.arange(n)[:, None] % 2 == 0, hidden, rng.normal(size=(n, 4)))
    mixed = [rng.normal(size=(4, WIDTH)) for _ in range(2)]
    x = np.stack([hidden @ mixed[0], other @ mixed[1]], 1).astype(np.float32)
    spans = {"a": slice(0, 1), "b": slice(1, 2)}
    return Tokens(torch.from_numpy(x), torch.ones(n, 2, dtype=torch.bool), spans), ["yes", "no"] * (n // 2)


def trained(objective, tokens, batch, steps=150):
    optimizer = torch.optim.Adam(objective.parameters(), 0.01)
    fused = tokens.with_row(tokens.x.mean(1))
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = objective(tokens, fused, batch)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("negatives", ["batch", "labelled"])
def test_contrastive_brings_pairs_together_and_keeps_the_others_apart(negatives):
    tokens, labels = paired()
    codec, cells = target(labels)
    objective = made("contrastive", {"label": codec}, ["a", "b"], pairs="label", negatives=negatives)

    def cosines():
        z, _ = objective.embed(tokens)
        cosine = (z[:, 0] * z[:, 1]).sum(-1).detach()
        return cosine[0::2], cosine[1::2]

    matched, apart = cosines()
    trained(objective, tokens, Batch({"label": cells}, len(labels)))
    now, then = cosines()
    assert float(now.mean() - then.mean()) > float(matched.mean() - apart.mean()) + 0.2
    assert float((now[:, None] > then[None]).float().mean()) > 0.95, "a row that belongs together is nearer than one that does not"


def test_heads_teach_each_view():
    tokens, labels = paired()
    told = ["yes" if row[0].sum() > 0 else "no" for row in tokens.x]
    codec, cells = target(told)
    losses = trained(made("heads", {"label": codec}, ["a", "b"]), tokens, Batch({"label": cells}, len(labels)))
    assert losses[-1] < 0.6 * losses[0]


def test_reconstruct_learns_what_the_views_share():
    tokens, labels = paired()
    shared = Tokens(tokens.x[0::2], tokens.mask[0::2], tokens.spans)
    losses = trained(made("reconstruct", {}, ["a", "b"]), shared, Batch({}, len(labels) // 2))
    assert losses[-1] < 0.2 * losses[0]


# -- through fit ------------------------------------------------------------------------------------------------


def table(n=40, seed=0):
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        a, b = rng.normal(size=4), rng.normal(size=4)
        row = {"a": a.round(3).tolist(), "b": (a if i % 2 else b).round(3).tolist(), "match": ["no", "yes"][i % 2]}
        out.append(row | {"size": float(100 * a[0])})
    return out


@pytest.mark.parametrize(
    ("chosen", "settings"),
    [
        ({"contrastive": 0.1}, {"contrastive.temperature": 0.2, "contrastive.pairs": "match"}),
        (["heads=0.3", "reconstruct=0.05"], {}),
        ({"contrastive": {"weight": 0.1, "pairs": "match", "negatives": "labelled"}}, {}),
    ],
)
def test_fit_with_objectives_saves_loads_and_is_repeated_by_its_recipe(tmp_path, chosen, settings):
    rows = table()
    bundle = pf.fit(rows, "match", ignore=["size"], objectives=chosen, set={"train.epochs": 2, **settings}, out=tmp_path / "b", **QUICK)
    expected = parse_objectives(chosen)
    assert {n: o["weight"] for n, o in bundle.recipe["objectives"].items()} == {n: o["weight"] for n, o in expected.items()}
    again = pf.fit(rows, recipe=tmp_path / "b")
    for (name, p), q in zip(bundle.model.state_dict().items(), again.model.state_dict().values()):
        assert torch.equal(p, q), name
    loaded = pf.Bundle.load(tmp_path / "b")
    assert list(loaded.model.objectives) == list(expected)
    assert loaded.predict(rows[0]) == bundle.predict(rows[0])


def test_settings_reach_the_objective():
    settings = {"train.epochs": 1, "contrastive.temperature": 0.5}
    bundle = pf.fit(table(), "match", ignore=["size"], objectives={"contrastive": 0.1}, set=settings, **QUICK)
    assert bundle.recipe["objectives"]["contrastive"] == {"weight": 0.1, "temperature": 0.5}


def test_an_objective_changes_training_and_no_answer_costs_it():
    rows = table()
    plain, helped = (
        pf.fit(rows, "match", ignore=["size"], objectives=o, set={"train.epochs": 1}, **QUICK) for o in (None, {"contrastive": 0.5})
    )
    same = plain.model.state_dict()
    assert any(not torch.equal(v, same[k]) for k, v in helped.model.state_dict().items() if k in same and k.startswith("encoders"))
    batch = Batch({v: Cells({}, torch.zeros(0, dtype=torch.long), 1) for v in helped.model.views}, 1)
    assert not helped.model.eval()(batch)[1], "objectives are computed in training only"


def test_weights_may_be_written_as_people_do():
    assert parse_objectives("heads=.5") == parse_objectives(["heads=0.5"]) == {"heads": {"weight": 0.5}}


@pytest.mark.parametrize("fusion", ["concat", "generate"])  # the second has a loss of the same name of its own
def test_weight_zero_trains_as_if_it_were_not_there(fusion):
    rows = table()
    options = {"fusion": fusion, "set": {"train.epochs": 2, "train.clip": 0.0}, **QUICK}
    plain = pf.fit(rows, "match", ignore=["size"], **options)
    idle = pf.fit(rows, "match", ignore=["size"], objectives={"reconstruct": 0.0}, **options)
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, idle.model.state_dict()[name]), name


def test_command_line(tmp_path, monkeypatch, capfd):
    def run(*more):
        monkeypatch.setattr("sys.argv", [*command, *more])
        try:
            cli.main()
        except SystemExit as stop:
            return stop.code, capfd.readouterr().err
        return 0, capfd.readouterr().err

    file = tmp_path / "t.jsonl"
    file.write_text("\n".join(json.dumps(r) for r in table()))
    command = ["polyfuse", "fit", str(file), "--out", str(tmp_path / "b"), "-t", "match", "-t", "size", "--main", "size", "--overwrite"]
    command += ["--column", "a=vector", "--column", "b=vector", "--size", "s", "--set", "train.epochs=1"]
    status, told = run("--objective", "contrastive=0.1", "--objective", "heads=0.2", "--set", "contrastive.temperature=0.3")
    assert not status and "'size' (main)" in told
    recipe = json.loads((tmp_path / "b" / "recipe.json").read_text("utf-8"))
    assert recipe["objectives"] == {"contrastive": {"weight": 0.1, "temperature": 0.3}, "heads": {"weight": 0.2}}
    assert recipe["main"] == "size"
    status, told = run("--objective", "contrastiv=1")
    assert status == 2 and "did you mean 'contrastive'" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objectives": ["contrastiv=0.1"]}, "objective 'contrastiv'.*did you mean 'contrastive'"),
        ({"objectives": ["contrastive"]}, "has the weight ''.*contrastive=0.1"),
        ({"objectives": {"contrastive": -1}}, "has the weight -1"),
        ({"objectives": {"contrastive": math.nan}}, "has the weight nan"),
        ({"objectives": {"contrastive": True}}, "has the weight True"),
        ({"objectives": {"contrastive": {"temperature": 1.0}}}, "has the weight None"),
        ({"objectives": {"heads": 1}, "set": ["heads.depth=2"]}, "objective 'heads'.*has no option 'depth'"),
        ({"objectives": {"contrastive": 1}, "set": ["contrastive.temprature=2"]}, "did you mean 'temperature'"),
        ({"objectives": {"contrastive": 1}, "set": ["contrastive.temperature=0"]}, "temperature 0"),
        ({"objectives": {"contrastive": 1}, "set": ["contrastive.temperature=warm"]}, "'temperature'.*is 'warm'"),
        ({"objectives": {"contrastive": 1}, "set": ["contrastive.negatives=bach"]}, "did you mean 'batch'"),
        ({"objectives": {"contrastive": 1}, "set": ["contrastive.negatives=labelled"]}, "no labels.*contrastive.pairs=TARGET"),
        ({"objectives": {"contrastive": 1}, "set": ["contrastive.pairs=mach"]}, "did you mean 'match'"),
        ({"objectives": {"contrastive": 1}, "set": ["contrastive.pairs=size"]}, "'size', which has 0 classes"),
        ({"set": ["contrastive.temperature=1"]}, "not chosen.*--objective contrastive="),
        ({"main": "mach"}, "main target 'mach'.*did you mean 'match'"),
        ({"set": ["loss.match=much"]}, "'loss.match'.*has the weight 'much'"),
        ({"set": ["loss.mach=2"]}, "'loss'.*has no option 'mach'.*did you mean 'match'"),
        ({"set": ["loss.kl=2"]}, "'loss'.*has no option 'kl'.*one of match, size"),
    ],
)
def test_bad_names_and_values_are_told(options, message):
    with pytest.raises(pf.RecipeError, match=f"(?s){message}"):
        pf.fit(table(), ["match", "size"], **QUICK, **options)


OWN = '''
"""An objective of one's own."""
from polyfuse.core import Objective, objectives


@objectives("NAME")
class Small(Objective):
    """Fused rows stay small."""

    def __init__(self, views, width, targets, make_task, *, power: float = 2.0):
        super().__init__(views, width, targets, make_task)
        self.power = power

    def forward(self, encoded, fused, batch):
        return POOLED
'''


def test_an_objective_of_ones_own_is_checked_and_used(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN.replace("NAME", "small").replace("POOLED", "self.vectors(encoded)[0].sum(1).abs().pow(self.power).mean()"))
    checked = list(contract.check_file(file))
    assert len(checked) == len(contract.CHECKS["objectives"]) and not [p for _, p in checked if p]
    bundle = pf.fit(table(), "match", ignore=["size"], objectives={"small": 0.1}, set={"train.epochs": 1, "small.power": 1.0}, **QUICK)
    assert bundle.recipe["objectives"]["small"] == {"weight": 0.1, "power": 1.0}


def test_an_objective_that_reads_behind_the_mask_is_caught(tmp_path):
    file = tmp_path / "leaky.py"
    file.write_text(OWN.replace("NAME", "leaky").replace("POOLED", "encoded.x.square().mean()"))
    assert "objective_hidden_values" in {name.split()[1] for name, problem in contract.check_file(file) if problem}


def test_heads_learn_the_shares_of_the_classes_before_training():
    """As the task's own head does: a rare class starts rare."""
    rows = [r | {"match": "yes" if i % 8 == 0 else "no"} for i, r in enumerate(table(64))]
    bundle = pf.fit(rows, "match", ignore=["size"], objectives={"heads": 0.1}, set={"train.epochs": 1, "train.rate": 0.0}, **QUICK)
    own = bundle.model.tasks[0].head[-1].bias.detach()
    for head in bundle.model.objectives["heads"].heads[0]:
        assert torch.allclose(head.head[-1].bias, own) and float(own[0] - own[1]) > 1.0
