"""Where a checkpoint lies, what it is, and how its network is made: the only place that talks to transformers."""

import copy
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from ...core import RecipeError

_WANTED = ("*.json", "*.safetensors", "*.txt", "*.model")  # no pickled weights, no code
_UNWANTED = ("*/*",)  # exports to other formats lie in folders
log = logging.getLogger("polyfuse")


def needs(name: str) -> Any:
    """An optional library, or an error that says how to get it."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise RecipeError(
            "a pretrained encoder", f"needs the library {name}, which is not installed", fix="pip install polyfuse[hub]"
        ) from None


def find(checkpoint: str, download: bool = False) -> Path:
    """The local folder of a checkpoint: a folder, a name in the local cache, or, only with `download`, from the hub.

    Raises:
        RecipeError: it is not here and may not or cannot be fetched, or it has no safetensors weights.
    """
    where = f"checkpoint '{checkpoint}'"
    if not isinstance(checkpoint, str) or not checkpoint:
        raise RecipeError(
            "a pretrained encoder",
            "has no checkpoint",
            expected="a local folder or a name on the hub",
            fix="write encoder='hub:NAME', or set the option checkpoint",
        )
    folder = Path(checkpoint).expanduser()
    if not folder.is_dir():
        folder = _from_hub(checkpoint, where, download)
    if not (folder / "config.json").is_file():
        raise RecipeError(where, "has no config.json", expected="a folder written by save_pretrained of transformers")
    if not any(folder.glob("*.safetensors")):
        raise RecipeError(
            where,
            "has no safetensors weights",
            expected="model.safetensors (pickled weights are never opened)",
            fix="load it once in a place you trust and save_pretrained() it again",
        )
    return folder


def download_size(checkpoint: str) -> int:
    """How many bytes `download=True` would fetch for a name on the hub; asks the hub for the list of files only."""
    hub = needs("huggingface_hub")
    info = hub.HfApi().model_info(checkpoint, files_metadata=True)
    names = {s.rfilename: s.size or 0 for s in info.siblings}
    wanted = hub.utils.filter_repo_objects(names, allow_patterns=list(_WANTED), ignore_patterns=list(_UNWANTED))
    return sum(names[name] for name in wanted)


def _from_hub(checkpoint: str, where: str, download: bool) -> Path:
    hub = needs("huggingface_hub")
    fetch = f"where there is a network, `hf download {checkpoint}`, or copy its folder and name that"
    options = {"allow_patterns": list(_WANTED), "ignore_patterns": list(_UNWANTED)}
    try:
        if download:
            log.warning("downloading %s from the Hugging Face hub: %.1f MB", checkpoint, download_size(checkpoint) / 1e6)
        return Path(hub.snapshot_download(checkpoint, local_files_only=not download, **options))
    except hub.errors.HFValidationError:
        raise RecipeError(where, "is neither a folder nor a name on the hub", expected="a folder, or OWNER/NAME") from None
    except hub.errors.RepositoryNotFoundError:
        raise RecipeError(where, "is not on the hub, or not for you", expected="OWNER/NAME of a model you have access to") from None
    except (OSError, RuntimeError) as error:  # no network, offline mode, or simply not in the cache
        if not download:
            raise RecipeError(
                where, "is no local folder and not in the local cache, and downloads are off", fix=f"{fetch}; or set download=true"
            ) from None
        raise RecipeError(where, f"cannot be downloaded ({type(error).__name__})", fix=fetch) from None


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A small JSON file of a checkpoint; {} where it has none."""
    try:
        data = json.loads((folder / name).read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        raise RecipeError(f"checkpoint '{folder}'", f"has a {name} that is no JSON", fix="fetch it again") from None
    return data if isinstance(data, dict) else {}


def read_config(folder: Path) -> dict[str, Any]:
    """The network's configuration as plain JSON, without paths and without code."""
    data = read_json(folder, "config.json")
    if "model_type" not in data:
        raise RecipeError(f"checkpoint '{folder}'", "has no model_type in its config.json", expected="a model of transformers")
    return {k: v for k, v in data.items() if k not in ("_name_or_path", "auto_map", "transformers_version", "custom_pipelines")}


def make_config(data: dict[str, Any], part: str) -> Any:
    """The configuration object; random cuts and skipped layers are off, they would make rows depend on luck."""
    transformers = needs("transformers")
    data = copy.deepcopy(data)
    kind = data.pop("model_type")
    try:
        config = transformers.AutoConfig.for_model(kind, **data)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RecipeError(
            f"checkpoint of type '{kind}'",
            f"is not known to transformers {transformers.__version__}",
            expected="a text, vision or audio model of that library",
            fix=str(error).splitlines()[0][:200],
        ) from None
    for one in (config, getattr(config, f"{part}_config", None)):
        for option, off in (("apply_spec_augment", False), ("layerdrop", 0.0), ("encoder_layerdrop", 0.0), ("use_cache", False)):
            if hasattr(one, option):
                setattr(one, option, off)
    return config


def make_network(config: Any, part: str, folder: Path | None) -> nn.Module:
    """The encoder network of one modality: with the weights in `folder`, or with random ones to be loaded over."""
    import torch
    from safetensors import SafetensorError

    transformers = needs("transformers")
    with quiet():
        if folder is None:
            whole = transformers.AutoModel.from_config(config, trust_remote_code=False, dtype=torch.float32)
        else:
            try:
                whole = transformers.AutoModel.from_pretrained(
                    folder, config=config, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
                )
            except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
                raise RecipeError(
                    f"checkpoint '{folder}'",
                    f"cannot be loaded ({str(error).strip().splitlines()[0][:200]})",
                    expected="a model of transformers with safetensors weights",
                    fix="fetch it again",
                ) from None
    inner = getattr(whole, f"{part}_model", None)  # CLIP, SigLIP, CLAP: one tower of two
    if isinstance(inner, nn.Module):
        return inner
    if getattr(config, "is_encoder_decoder", False):  # T5, BART, Whisper
        return whole.get_encoder()
    return whole


@contextmanager
def quiet() -> Iterator[None]:
    """transformers without its progress bars and its remarks on unused weights (a pooler, a head)."""
    logging_ = needs("transformers").utils.logging
    level, bars = logging_.get_verbosity(), logging_.is_progress_bar_enabled()
    logging_.set_verbosity_error()
    logging_.disable_progress_bar()
    try:
        yield
    finally:
        logging_.set_verbosity(level)
        if bars:
            logging_.enable_progress_bar()
