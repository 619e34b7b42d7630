"""Base + head + adapters: where a model is built, saved and loaded, and where planned must equal built.

Two forms, one file format (docs/decisions/0002): `stock` is the base's own AutoModelForSequenceClassification under
PEFT's SEQ_CLS; `textlora` is AutoModel with a `classifier` on its pooled tokens under FEATURE_EXTRACTION. Either way
the adapter folder holds PEFT's two files and textlora.json.

B texts, T tokens, D hidden, C labels.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import logging as hf_logging

from textlora import adapter, bases, device, heads, meta
from textlora.bases import Base
from textlora.budget import Plan
from textlora.config import Config
from textlora.errors import DamagedError, GateError, UsageError
from textlora.memory import Memory
from textlora.shapes import PREFIXES

BAG, MEMORY = "bag_of_tokens", "memory"
DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "seq_classif_dropout",
    "classifier_dropout",
    "cls_dropout",
    "pooler_dropout",
    "embedding_dropout",
    "mlp_dropout",
)


# ------------------------------------------------------------------------------------------------------ the network


class _Mean(torch.autograd.Function):
    """(hidden (B, T, D), mask (B, T)) -> the mean of each text's tokens, (B, D) in fp32.

    Autograd's own way back would write the gradient three times, first in fp32: 3 % of a step of MiniLM.
    """

    @staticmethod
    def forward(ctx: Any, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        weight_BT1 = mask_BT.unsqueeze(-1).float()
        ctx.weight_BT1, ctx.count_B1, ctx.dtype = weight_BT1, weight_BT1.sum(1).clamp(min=1), hidden_BTD.dtype
        return (hidden_BTD.float() * weight_BT1).sum(1) / ctx.count_B1

    @staticmethod
    def backward(ctx: Any, gradient_BD: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        each_B1D = (gradient_BD / ctx.count_B1).to(ctx.dtype).unsqueeze(1)
        return each_B1D * ctx.weight_BT1.to(ctx.dtype), None


def pool(hidden_BTD: Tensor, mask_BT: Tensor | None, pooling: str) -> Tensor:
    """One vector of a text, in fp32: its first token's (`cls`), or the mean of its tokens, padding left out."""
    if pooling == "cls":
        return hidden_BTD[:, 0].float()
    if mask_BT is None:
        return hidden_BTD.float().mean(1)
    return _Mean.apply(hidden_BTD, mask_BT)  # type: ignore[no-any-return]


def bag_logits(each_BTC: Tensor, mask_BT: Tensor | None) -> Tensor:
    """What a text's tokens say together, in fp32: their sum over the square root of their number (bag.features)."""
    if mask_BT is None:
        return each_BTC.float().sum(1) / each_BTC.shape[1] ** 0.5
    weight_BT1 = mask_BT.unsqueeze(-1).float()
    return (each_BTC.float() * weight_BT1).sum(1) / weight_BT1.sum(1).clamp(min=1).sqrt()


class _Classifies:
    """Mixed into a base's AutoModel class: its forward, pooled and classified. State-dict names stay AutoModel's."""

    accepts_loss_kwargs = False  # the Trainer must not pass num_items_in_batch to the encoder

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config, **meta.no_pooler(super().__init__))  # type: ignore[call-arg]
        self.classifier: nn.Module = nn.Identity()  # until `_put_head`
        self.bag_of_tokens: nn.Module | None = None
        self.memory: nn.Module | None = None
        self.pooling = ""

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """The last layer's output (B, T, D). The engine may put a shorter way to the same in its place."""
        return super().forward(input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state  # type: ignore[misc]

    def vectors(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """What a memory knows texts by (B, D): the mean of what enters the first layer, words at their places."""
        with torch.autocast(input_ids.device.type, enabled=False):
            return pool(self.embeddings(input_ids=input_ids), attention_mask, "mean")  # type: ignore[attr-defined]

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> SequenceClassifierOutput:
        hidden_BTD = self.encode(input_ids, attention_mask, **kwargs)
        pooled_BD = pool(hidden_BTD, attention_mask, self.pooling)
        with torch.autocast(pooled_BD.device.type, enabled=False):  # the head is tiny: its logits stay in fp32
            logits_BC = self.classifier(pooled_BD)
            if self.bag_of_tokens is not None:
                logits_BC = logits_BC + bag_logits(self.bag_of_tokens(input_ids), attention_mask)
            if self.memory is not None and not self.memory.is_empty:
                logits_BC = logits_BC + self.memory(self.vectors(input_ids, attention_mask))
            return SequenceClassifierOutput(logits=logits_BC)


def _put_head(
    network: PreTrainedModel, head: str, head_rank: int, pooling: str, bag_of_tokens: bool, memory: int
) -> None:
    """Give a base of form `textlora` its pooling and its head, in its type and place; the head's numbers are anything.

    A bag of tokens is zeros, and a memory of so many texts empty: neither says anything before `blend.py` fills it.
    """
    config = network.config
    row = heads.layers(head, config.hidden_size, int(config.num_labels or 0), head_rank)
    built = [
        nn.Tanh() if isinstance(layer, heads.Tanh) else nn.Linear(layer.inputs, layer.outputs, bias=layer.bias)
        for layer in row
    ]
    network.classifier = (built[0] if len(built) == 1 else nn.Sequential(*built)).to(network.device, network.dtype)  # type: ignore[arg-type]
    network.pooling = pooling  # type: ignore[assignment]
    if bag_of_tokens:
        bag = nn.Embedding(config.vocab_size, int(config.num_labels or 0))
        nn.init.zeros_(bag.weight)
        network.bag_of_tokens = bag.to(network.device, network.dtype)
    if memory:
        width = config.embedding_size if config.model_type == "electra" else config.hidden_size
        network.memory = Memory(memory, width, int(config.num_labels or 0)).to(network.device)


def _start_head(network: PreTrainedModel, modules: Iterable[str], config: Config) -> None:
    """Random numbers for the head's modules, from the base's own recipe (mostly normal, of its initializer_range).

    A product of two such matrices would start some hundred times smaller than one, and train slowly. A second factor
    of deviation 1 / sqrt(k) makes the product's that of a single matrix.
    """
    for name in modules:
        module = network.get_submodule(name)
        for parameter in module.parameters():  # transformers 5 leaves alone what it marked as read from a file
            parameter._is_hf_initialized = False  # type: ignore[attr-defined]
        module.apply(network._init_weights)
    if config.head == "low-rank":
        row = heads.layers(
            config.head, network.config.hidden_size, int(network.config.num_labels or 0), config.head_rank
        )
        for i in heads.second_factors(row):
            nn.init.normal_(network.get_submodule(f"classifier.{i}").weight, std=config.head_rank**-0.5)  # type: ignore[arg-type]


@cache
def _classifying(encoder_class: type[PreTrainedModel]) -> type[PreTrainedModel]:
    return type(f"{encoder_class.__name__}Classifier", (_Classifies, encoder_class), {})


@dataclass(frozen=True)
class _Network:
    """A base with an untrained head."""

    model: PreTrainedModel
    base_sha256: str  # of the base's weights
    brought: tuple[str, ...]  # modules of the head that the base's weights brought: ModernBERT's transform


def _network(
    hf_config: PreTrainedConfig, base: Base, weights: str, form: str, dtype: torch.dtype, quantize: str = "none"
) -> _Network:
    """The base with an untrained head, in `dtype`; on the CPU, but on the GPU if held in 4 bits.

    Raises UsageError if a frozen part would stay random, DamagedError for weights that don't fit their config.
    """
    auto = "AutoModelForSequenceClassification" if form == "stock" else "AutoModel"
    model_class = meta.model_class(auto, hf_config)
    # The CPU's fused attention takes 10 times as long in its backward pass at these lengths (docs/log.md, 2026-11-22).
    fused = device.pick_device().type == "cuda" and model_class._supports_sdpa
    hf_config._attn_implementation = "sdpa" if fused else "eager"
    if form == "textlora":
        model_class = _classifying(model_class)
    if weights.startswith("random:"):
        return _random(model_class, hf_config, int(weights[7:]), form, dtype)
    if quantize == "none":
        return _pretrained(model_class, hf_config, base, weights, form, dtype)
    device.check_quantize(quantize)
    with torch.device("meta"):
        head = head_modules(model_class(hf_config), form)
    in_4_bits = device.quantization(dtype, whole=head)
    return _pretrained(model_class, hf_config, base, weights, form, dtype, **in_4_bits)


def _pretrained(
    model_class: Any,
    hf_config: PreTrainedConfig,
    base: Base,
    weights: str,
    form: str,
    dtype: torch.dtype,
    **others: Any,
) -> _Network:
    folder = bases.files(base, weights)
    with _quietly():
        model, loading = model_class.from_pretrained(
            folder,
            config=hf_config,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # a tuned base brings a head of its own number of labels; others: see below
            output_loading_info=True,
            **others,
        )
    head = head_modules(model, form)
    missing = set(loading["missing_keys"])
    misfits = {key if isinstance(key, str) else key[0] for key in loading["mismatched_keys"]}
    frozen = [sorted(k for k in keys if k.split(".")[0] not in head) for keys in (misfits, missing)]
    if frozen[0]:
        what = f"{frozen[0][0]} of {folder / bases.WEIGHTS} has another shape than {bases.CONFIG} says"
        raise DamagedError(what, "put the two files that were published together there")
    if frozen[1]:
        fix = "use --head linear, which needs none of them" if form == "stock" else "use another base"
        raise UsageError(f"{base.hub_id} has no weights for {frozen[1][0]}: frozen, it would stay random", fix)
    # The last module has an output for each label and is trained from scratch, whatever the base was trained on before.
    brought = tuple(name for name in head[:-1] if not any(k.split(".")[0] == name for k in missing | misfits))
    sha256 = bases.sha256_of(folder, base, allow_other=bool(weights))  # a named folder may hold other weights
    return _Network(model, sha256, brought)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without a bar, and a report of weights left out or made anew of which `_pretrained` checks what matters."""
    level, bar = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # transformers 5.23 renames an attribute that PEFT 0.21 still reads (2026-11)
            warnings.filterwarnings("ignore", ".is_gradient_checkpointing", FutureWarning)
            yield
    finally:
        hf_logging.set_verbosity(level)
        if bar:
            hf_logging.enable_progress_bar()


def _random(
    model_class: type[PreTrainedModel], hf_config: PreTrainedConfig, seed: int, form: str, dtype: torch.dtype
) -> _Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(hf_config)
    digest = hashlib.sha256()
    head = head_modules(model, form)
    for name, tensor in sorted(model.state_dict().items()):
        if name.split(".")[0] not in head:
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return _Network(model.to(dtype=dtype), digest.hexdigest(), ())  # type: ignore[call-arg]


def head_modules(network: PreTrainedModel, form: str) -> tuple[str, ...]:
    """The modules a head consists of: trained and saved whole (PEFT's modules_to_save); the outputs' one comes last."""
    return meta.own_head(network) if form == "stock" else ("classifier",)


def hf_config(base: Base, weights: str, labels: tuple[str, ...], dropout: float = 0.0) -> PreTrainedConfig:
    """The base's transformers config, with our labels and dropout."""
    if weights.startswith("random:"):
        config = AutoConfig.for_model(**bases.config(base))
    else:
        config = AutoConfig.from_pretrained(bases.files(base, weights), local_files_only=True, trust_remote_code=False)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    for name in DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, dropout)
    return config


# ------------------------------------------------------------------------------------------------------------- build


def build(config: Config, plan: Plan, labels: tuple[str, ...], dtype: torch.dtype) -> tuple[PeftModel, str]:
    """The model that `plan` counted, untrained: frozen weights in `dtype`, trained ones in fp32; and the base's sha256.

    Raises GateError if the built model trains another number of parameters than planned.
    """
    base = bases.find(config.base, config.base_revision)
    form = "stock" if config.head == "full" else "textlora"
    settings = hf_config(base, config.base_weights, labels, config.base_dropout)
    found = _network(settings, base, config.base_weights, form, dtype, config.quantize)
    network = found.model
    if form == "textlora":
        _put_head(network, config.head, config.head_rank, config.pooling, plan.bag_of_tokens > 0, plan.memory_rows)
    torch.manual_seed(config.seed)
    modules = head_modules(network, form)
    _start_head(network, [name for name in modules if name not in found.brought], config)
    modules += (BAG,) * (plan.bag_of_tokens > 0) + (MEMORY,) * (plan.memory > 0)
    model = _wrap(network, _lora_config(config, plan, base, form, modules))
    if settings.model_type not in PREFIXES:
        _check_forward(model, settings.model_type, len(labels))
    if trainable_count(model) != plan.trainable:
        raise GateError(
            f"planned {plan.trainable:,} trainable parameters, built {trainable_count(model):,}", "report this"
        )
    if plan.bag_of_tokens:
        _saved(model, BAG).requires_grad_(False)  # fitted apart, when training is over (blend.py)
    return model, found.base_sha256


def encoder(config: Config, dtype: torch.dtype) -> PreTrainedModel:
    """The frozen base of `config` alone: its "logits" (B, D) are each text's tokens, pooled as `config` says."""
    base = bases.find(config.base, config.base_revision)
    settings = hf_config(base, config.base_weights, ())
    network = _network(settings, base, config.base_weights, "textlora", dtype).model
    network.pooling = config.pooling  # type: ignore[assignment]
    return network.requires_grad_(False).eval()  # type: ignore[return-value]


def _check_forward(model: PeftModel, family: str, num_labels: int) -> None:
    """What the tests hold for the families that we count by hand, tried once on any other: texts in, logits out, and
    padding changes nothing. Raises UsageError.
    """
    fix = "use another base"
    ids_BT = torch.arange(10, 18, device=model.device).repeat(2, 1)
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[1, 6:] = 0
    ids_BT[1, 6:] = model.config.pad_token_id or 0  # some heads look for the last token that isn't this one
    try:
        with torch.inference_mode():
            both_BC = model.eval()(input_ids=ids_BT, attention_mask=mask_BT).logits
            alone_BC = model(input_ids=ids_BT[1:, :6], attention_mask=mask_BT[1:, :6]).logits
    except Exception as error:  # whatever an unknown model raises
        raise UsageError(f"a {family} can't be run on two texts: {meta.reason(error)}", fix) from error
    if both_BC.shape != (2, num_labels):
        raise UsageError(f"a {family} gives {list(both_BC.shape)} for 2 texts and {num_labels} labels", fix)
    if (both_BC[1] - alone_BC[0]).abs().max() > 0.1 * alone_BC.abs().max() + 1e-3:  # far beyond bf16's rounding
        raise UsageError(f"a {family} reads padding: a text's label would depend on its neighbours", fix)


def set_bag(model: PeftModel, weights_VC: np.ndarray) -> None:
    """Put fitted numbers into the bag of tokens."""
    with torch.no_grad():
        _saved(model, BAG).weight.copy_(torch.from_numpy(weights_VC))  # type: ignore[union-attr]


def has_bag(model: PeftModel) -> bool:
    """Whether it was built with a bag of tokens."""
    return getattr(model.base_model.model, BAG, None) is not None


def memory_of(model: PeftModel) -> Memory | None:
    """The memory that it was built with, if it was."""
    return _saved(model, MEMORY) if getattr(model.base_model.model, MEMORY, None) is not None else None  # type: ignore[return-value]


@contextmanager
def headless(model: PeftModel) -> Iterator[None]:
    """Within it the "logits" (B, D) of a `model` of form `textlora` are its pooled vectors: no head, no other voice."""
    inner: Any = model.base_model.model
    voices = inner.classifier, inner.bag_of_tokens, inner.memory
    inner.classifier, inner.bag_of_tokens, inner.memory = nn.Identity(), None, None
    try:
        yield
    finally:
        inner.classifier, inner.bag_of_tokens, inner.memory = voices


@contextmanager
def unread(model: PeftModel) -> Iterator[None]:
    """Within it the "logits" (B, D) of a `model` of form `textlora` are the vectors that a memory knows texts by."""
    inner: Any = model.base_model.model

    def forward(input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(logits=inner.vectors(input_ids, attention_mask))

    inner.forward = forward
    try:
        yield
    finally:
        del inner.forward


def set_head(model: PeftModel, weights_DC: np.ndarray, bias_C: np.ndarray) -> None:
    """Put solved numbers into the head's last linear."""
    last = _outputs(model)
    with torch.no_grad():
        last.weight.copy_(torch.from_numpy(weights_DC.T))
        last.bias.copy_(torch.from_numpy(bias_C))


def last_linear(model: PeftModel) -> nn.Linear | None:
    """The head's last layer if it is a linear with an output for each label: where the logits can be changed."""
    trained = [m for name, m in model.named_modules() if ".modules_to_save." in name and isinstance(m, nn.Linear)]
    return trained[-1] if trained and trained[-1].out_features == model.config.num_labels else None


def _outputs(model: PeftModel) -> nn.Linear:
    """`last_linear`, which whoever asks for more than a head as it is has looked for before training."""
    last = last_linear(model)
    if last is None:
        raise GateError("this base's head doesn't end in a linear layer over the labels", "train with --head linear")
    return last


def scale_head(model: PeftModel, factor: float) -> None:
    """Multiply the head's logits by `factor`: its last linear's weights and bias, so that nothing new is saved."""
    with torch.no_grad():
        for parameter in _outputs(model).parameters():
            parameter.mul_(factor)


def scale_adapters(model: PeftModel, factor: float) -> None:
    """Multiply what the adapters add to their matrices by `factor`. Head, bag of tokens and trained biases stay.

    Raises UsageError for DoRA, whose magnitudes would still be the trained ones at 0.
    """
    if model.peft_config["default"].use_dora:  # type: ignore[union-attr]
        raise UsageError("an adapter with DoRA has no scale: its magnitudes aren't added", "leave --adapter-scale out")
    for module in model.modules():
        if isinstance(module, LoraLayer):  # its scale_layer passes over embeddings (PEFT 0.21)
            module.scaling.update({name: factor * usual for name, usual in module.scaling.items()})


def shift_head(model: PeftModel, offsets_C: np.ndarray) -> None:
    """Add `offsets_C` (C,) to the head's logits: into its last linear's bias, so that nothing new is saved."""
    with torch.no_grad():
        _outputs(model).bias.add_(torch.from_numpy(offsets_C))


def _saved(model: PeftModel, name: str) -> nn.Module:
    """The trained copy that PEFT keeps of one of its modules_to_save."""
    return model.get_submodule(f"base_model.model.{name}.modules_to_save.default")


def _lora_config(config: Config, plan: Plan, base: Base, form: str, modules: tuple[str, ...]) -> LoraConfig:
    return LoraConfig(
        task_type=TaskType.SEQ_CLS if form == "stock" else TaskType.FEATURE_EXTRACTION,
        base_model_name_or_path=base.hub_id,
        revision=base.revision or None,
        r=plan.r,
        lora_alpha=plan.lora_alpha,
        # PEFT builds no Dropout module at 0, and a scheduler needs one to set
        lora_dropout=max(config.lora_dropout, config.lora_dropout_end),
        target_modules=[m.name for m in plan.modules],  # in full: "dense" alone would match pooler and head too
        rank_pattern=plan.rank_pattern,
        alpha_pattern=plan.alpha_pattern,
        bias=plan.bias,  # type: ignore[arg-type]
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        modules_to_save=list(modules),  # PEFT appends to it
    )


def _wrap(network: PreTrainedModel, lora: LoraConfig) -> PeftModel:
    """PEFT's adapters around `network`. All that is trained is fp32, whatever the frozen weights are."""
    targets, base_id = lora.target_modules, lora.base_model_name_or_path
    network.name_or_path = base_id  # PEFT writes this into its config: a base is a hub id, never a folder of ours
    with _quietly():
        model = get_peft_model(network, lora)
    # PEFT shortens a long list to endings that are unique in this network; in a plain AutoModel, which has a pooler,
    # "dense" would match one more. So the names are saved in full.
    model.peft_config["default"].target_modules = targets  # type: ignore[union-attr]
    for module in model.modules():
        trained = [p for p in module.parameters(recurse=False) if p.requires_grad]
        if trained and isinstance(module, nn.LayerNorm):  # kernels take one type for both of its tensors
            module.float()
        for parameter in trained:
            parameter.data = parameter.data.float()
    return model  # type: ignore[return-value]


def trainable_count(model: nn.Module) -> int:
    """Numbers that are fitted or kept: those that receive gradients, a bag of tokens, which is fitted apart, and the
    training texts in a memory."""
    bag, memory = (f".{name}.modules_to_save." for name in (BAG, MEMORY))
    fitted = sum(p.numel() for name, p in model.named_parameters() if p.requires_grad or bag in name)
    return fitted + sum(b.numel() for name, b in model.named_buffers() if memory in name)


def merged(model: PeftModel, dtype: torch.dtype) -> PreTrainedModel:
    """`model` without PEFT, to predict with: adapters added to their matrices, then each rounded once, to `dtype`.

    `model` is in fp32, and used up. Head and bag of tokens, which are small or looked up, and vectors stay exact.
    """
    head = {id(parameter) for name, parameter in model.named_parameters() if ".modules_to_save." in name}
    with _quietly():
        network: PreTrainedModel = model.merge_and_unload()  # type: ignore[operator]
    for parameter in network.parameters():
        if parameter.ndim > 1 and id(parameter) not in head:
            parameter.data = parameter.data.to(dtype)
    return network.requires_grad_(False).eval()


# ----------------------------------------------------------------------------------------------------- save and load


@dataclass(frozen=True)
class Loaded:
    """An adapter on its base, ready to predict."""

    model: PeftModel
    settings: adapter.AdapterSettings
    tokenizer_folder: Path


def load(
    folder: Path,
    *,
    base_weights: str = "",
    tokenizer: str = "",
    allow_other_base: bool = False,
    dtype: torch.dtype,
    quantize: str = "none",
) -> Loaded:
    """The adapter in `folder` on a fresh copy of its base, in evaluation mode.

    Raises UsageError for an adapter of other base weights (unless `allow_other_base`), DamagedError for a file that
    doesn't fit the model name by name and shape by shape.
    """
    tensors = adapter.read_weights(folder)
    lora = adapter.read_lora_config(folder)
    settings = adapter.read_settings(folder, lora, tensors, base_weights)
    adapter.check_memory(settings, tensors)
    base = bases.recorded(settings.base, settings.base_revision, settings.base_sha256)
    weights = base_weights or settings.base_weights
    config = hf_config(base, weights, settings.labels)
    found = _network(config, base, weights, settings.form, dtype, quantize)
    network, base_sha256 = found.model, found.base_sha256
    if settings.base_sha256 not in (None, base_sha256) and not allow_other_base:
        raise UsageError(
            f"the adapter was trained on other weights of {base.hub_id} (sha256 {settings.base_sha256[:12]}..., "
            f"these are {base_sha256[:12]}...)",
            "name the right ones with --base-weights, or accept what comes with --allow-other-base",
        )
    if settings.form == "textlora":
        rank = settings.head_rank or 0
        _put_head(network, settings.head, rank, settings.pooling, settings.bag_of_tokens, settings.memory)
    model = _wrap(network, lora)
    adapter.set_adapter_tensors(model, tensors)
    model.eval().to(device.pick_device())
    return Loaded(model, settings, _tokenizer_folder(folder, base, weights, tokenizer))


def _tokenizer_folder(folder: Path, base: Base, weights: str, tokenizer: str) -> Path:
    """`tokenizer` if named, else the adapter's own files, else the base's."""
    if tokenizer:
        return Path(tokenizer)
    if (folder / "tokenizer.json").is_file():
        return folder
    return find_tokenizer(base, weights, tokenizer)


def find_tokenizer(base: Base, weights: str, tokenizer: str) -> Path:
    """The folder to read a tokenizer from. Raises UsageError for random weights without one."""
    if tokenizer:
        return Path(tokenizer)
    if weights.startswith("random:"):
        raise UsageError(f"random weights of {base.hub_id} come without a tokenizer", "name one with --tokenizer DIR")
    return bases.files(base, weights)
