"""What the three pretrained encoders have in common: which part trains, tokens out of hidden states, what a bundle keeps."""

import json
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...core import Codec, Encoded, Encoder, RecipeError
from ...core.layers import squeeze
from .checkpoint import find, make_config, make_network, needs


class HubEncoder(Encoder):
    """A pretrained network, frozen or tuned, and a linear layer to the model's width.

    Args:
        checkpoint: a local folder, or a name on the Hugging Face hub that is in the local cache.
        tune: "none" = frozen (its output is computed once and stored), "all", a number = that many last layers, or
            "lora" = low-rank updates of every linear layer (Hu et al. 2022).
        lora_rank: rank of these updates.
        tokens: most tokens given; more hidden states are averaged with their neighbours.
        layers: how many layers are given side by side: the last, and others evenly from the middle on, where they are alike.
        download: fetch the checkpoint where it is not here; the log names the size first.
        config: what `config_state` gave; then no checkpoint is read and the weights are expected by load_state_dict.
    """

    exempt = {"all": "it needs a checkpoint; its own tests check the same on small ones"}
    part: ClassVar[str] = ""  # the tower's name in two-tower models
    inputs: ClassVar[tuple[str, ...]] = ()  # what a network of this modality takes

    def __init__(
        self,
        codec: Codec,
        width: int,
        *,
        checkpoint: str = "",
        tune: str | int = "none",
        lora_rank: int = 8,
        tokens: int = 16,
        layers: int = 1,
        download: bool = False,
        config: dict[str, Any] | None = None,
    ):
        super().__init__(codec, width)
        self.tune = _tune(self.name, tune)
        self.codec, self.layers = codec, 1
        folder = None if config else find(checkpoint, download)
        self.config: dict[str, Any] = config or self.describe(folder)
        made = make_config(self.config["model"], self.part)
        self.prepare(codec, made)
        self.network = make_network(made, self.part, folder)
        if getattr(self.network, "main_input_name", self.inputs[0]) not in self.inputs:
            raise RecipeError(
                f"checkpoint of type '{made.model_type}'", f"is no {self.part} model", fix=f"use it with another encoder than {self.name}"
            )
        self.frozen = self.tune == "none"
        self.most_tokens = tokens
        self._choose(lora_rank)
        filler = codec.collate([codec.filler()])
        one = self.hidden(filler)[0].shape[-1]
        self.layers = layers
        self.hidden_size: int = self.hidden(filler)[0].shape[-1]
        self.alike = self.hidden_size // one
        self.out = nn.Sequential(nn.LayerNorm(self.hidden_size), nn.Linear(self.hidden_size, width))
        self.train(self.training)

    @classmethod
    def codec_options(
        cls, *, checkpoint: str = "", download: bool = False, config: dict[str, Any] | None = None, **options: Any
    ) -> dict[str, Any]:
        return dict((config or cls.describe(find(checkpoint, download)))["codec"])

    @classmethod
    def describe(cls, folder: Any) -> dict[str, Any]:
        """What is needed of a checkpoint besides its weights, as JSON: {"model", "codec", ...}."""
        raise NotImplementedError

    def prepare(self, codec: Codec, made: Any) -> None:
        """Check the codec against the checkpoint and keep what `hidden` needs; the network is made afterwards."""

    def hidden(self, x: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """{name: [P, ...]} -> last hidden states [P, N, F] and mask [P, N]."""
        raise NotImplementedError

    def states(self, **inputs: Any) -> Tensor:
        """The network's last layer, [.., N, F] or a map [.., F, h, w], and the middle ones that `layers` asks for beside it.

        What is said in what tone lies in the middle; the last layer has made of it what its own training asked for.
        Source: Liu et al. 2019, "Linguistic Knowledge and Transferability of Contextual Representations": of Transformers the
        middle layers transfer best.
        """
        made = self.network(**inputs, return_dict=True, output_hidden_states=self.layers > 1)
        last = torch.as_tensor(made.last_hidden_state)
        every = made.hidden_states or () if self.layers > 1 else ()  # the input of the first layer, then the output of each
        depth = len(every) - 1
        places = {round(depth / 2 * (1 + i / (self.layers - 1))) for i in range(self.layers - 1)} if depth > 1 else set()
        middle = [every[p] for p in sorted(places - {depth}) if every[p].shape == last.shape]
        return torch.cat([*middle, last], 1 if last.dim() == 4 else -1)

    def config_state(self) -> dict[str, Any]:
        """JSON with which the encoder is made again without its checkpoint (option `config`)."""
        config = json.loads(json.dumps(self.config))
        config["codec"].pop("tokenizer", None)  # a path of this machine; the codec's own state carries the tokenizer
        return config

    def features(self, x: dict[str, Tensor]) -> Encoded:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return Encoded(*squeeze(*self.hidden(x), self.most_tokens))

    def project(self, encoded: Encoded) -> Tensor:
        return self.out(encoded.x)

    def train(self, mode: bool = True) -> "HubEncoder":
        """Frozen networks stay as they are used; batch norms always, since their statistics would mix rows."""
        super().train(mode)
        for module in self.network.modules() if hasattr(self, "network") else ():
            if self.frozen or isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.training = False
        return self

    def _choose(self, lora_rank: int) -> None:
        """Let exactly those parameters train that `tune` names and that the output depends on."""
        self.network.requires_grad_(False)
        if self.frozen:
            return
        if self.tune == "lora":
            self._add_low_rank(lora_rank)
        else:
            for parameter in self._tuned():
                parameter.requires_grad_(parameter.is_floating_point())
        trained = {n: p for n, p in self.network.named_parameters() if p.requires_grad}
        self.network.eval()
        with torch.enable_grad():
            x, _ = self.hidden(self.codec.collate([self.codec.filler()]))
            reached = torch.autograd.grad(x.sum(), list(trained.values()), allow_unused=True)
        for parameter, gradient in zip(trained.values(), reached, strict=True):
            parameter.requires_grad_(gradient is not None)  # a pooler, a mask token: nothing here depends on them
        self.network.train(self.training)

    def _add_low_rank(self, rank: int) -> None:
        peft = needs("peft")
        kinds = {n: type(m).__name__ for n, m in self.network.named_modules() if getattr(m, "groups", 1) == 1}
        # a convolutional network has no linear layers; GPT-2 calls its own Conv1D and stores them transposed
        names = [n for n, k in kinds.items() if k in ("Linear", "Conv1D")] or [n for n, k in kinds.items() if k == "Conv2d"]
        how = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, fan_in_fan_out="Conv1D" in kinds.values())
        peft.inject_adapter_in_model(how, self.network)

    def _tuned(self) -> Iterator[nn.Parameter]:
        if self.tune == "all":
            yield from self.network.parameters()
            return
        name, layers = _layers(self.network)
        assert isinstance(self.tune, int), self.tune
        if not 1 <= self.tune <= len(layers):
            raise RecipeError(
                f"encoder '{self.name}', option 'tune'",
                f"is {self.tune}, of a network of {len(layers)} layers",
                expected=f"1 to {len(layers)}, none, all or lora",
            )
        for layer in list(layers)[-self.tune :]:
            yield from layer.parameters()
        for owner in {"", name.rpartition(".")[0]}:  # norms behind the last layer
            for child, module in self.network.get_submodule(owner).named_children():
                if "norm" in child.lower():
                    yield from module.parameters()


def _tune(encoder: str, tune: Any) -> str | int:
    if isinstance(tune, int) and not isinstance(tune, bool) or isinstance(tune, str) and tune.isdecimal():
        return int(tune)
    if tune not in ("none", "all", "lora"):
        raise RecipeError(f"encoder '{encoder}', option 'tune'", f"is {tune!r}", expected="none, all, lora, or a number of last layers")
    return tune


def _layers(network: nn.Module) -> tuple[str, nn.ModuleList]:
    """The network's stack of layers: the module list that holds most of its parameters."""
    found = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.ModuleList) and len(m)]
    if not found:
        raise RecipeError(
            "a pretrained encoder, option 'tune'", "is a number, and the network has no list of layers", expected="none, all or lora"
        )
    return max(found, key=lambda item: sum(p.numel() for p in item[1].parameters()))
