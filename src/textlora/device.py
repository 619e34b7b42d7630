"""Where a model runs and how precisely: the device, the type of its frozen weights, mixed precision."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from textlora.errors import ResourceError, UsageError

# What oneDNN's names of instruction sets mean for us; those not listed, and none, limit nothing.
ONEDNN_LEVELS = {
    "SSE41": "avx2",
    "AVX": "avx2",
    "AVX2": "avx2",
    "AVX2_VNNI": "avx2",
    "AVX2_VNNI_2": "avx2",
    "AVX512_CORE": "avx512",
    "AVX512_CORE_VNNI": "avx512",
    "AVX512_CORE_BF16": "avx512_bf16",
    "AVX512_CORE_FP16": "avx512_bf16",
}


def pick_device() -> torch.device:
    """The accelerator that torch sees, or the CPU; the environment's TEXTLORA_DEVICE (cpu, cuda, mps) over both.

    Raises ResourceError for a device that this machine lacks, UsageError for one there is no such thing as.
    """
    named = os.environ.get("TEXTLORA_DEVICE", "")
    if named:
        return _named(named)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _named(name: str) -> torch.device:
    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name not in has:
        raise UsageError(f"TEXTLORA_DEVICE is {name!r}", f"known: {', '.join(has)}")
    if not has[name]:
        raise ResourceError(f"TEXTLORA_DEVICE is {name}, which torch doesn't find here", "unset it, or use cpu")
    return torch.device(name)


def compute_dtype(precision: str, device: torch.device | None = None) -> torch.dtype:
    """The type that frozen weights are held in and matrices are multiplied in.

    `auto` is bf16 where the machine has units for it (AMX or AVX512-BF16; a GPU's own, not emulated), else fp16 on a
    GPU, else fp32. Raises ResourceError for fp16 without a GPU.
    """
    place = device or pick_device()
    if precision == "auto":
        if _fast_bf16(place):
            return torch.bfloat16
        return torch.float16 if place.type == "cuda" else torch.float32
    if precision == "fp16" and place.type != "cuda":
        raise ResourceError(f"fp16 needs a GPU, this machine offers {place.type}", "use --precision bf16 or fp32")
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]


def quantization(dtype: torch.dtype, whole: tuple[str, ...]) -> dict[str, Any]:
    """What `from_pretrained` needs to hold a base's linears in 4 bits, computing in `dtype`.

    As in QLoRA (arXiv 2305.14314): NF4, the scales quantised once more. The modules named `whole` are left as they are.
    """
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(whole),
    )
    return {"quantization_config": settings, "device_map": {"": pick_device()}}


def check_quantize(quantize: str) -> None:
    """Raises ResourceError for `4bit` without a CUDA GPU, or without the package that does it."""
    place = pick_device().type
    if quantize != "none" and place != "cuda":
        raise ResourceError(f"quantize {quantize} needs a CUDA GPU, this machine offers {place}", "leave it out")
    if quantize != "none" and not _has_bitsandbytes():
        raise ResourceError(f"quantize {quantize} needs bitsandbytes", "pip install 'textlora[quantize]'")


def _has_bitsandbytes() -> bool:
    from transformers.utils.import_utils import is_bitsandbytes_available

    return is_bitsandbytes_available()


def _fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and cpu_isa() in ("amx", "avx512_bf16")


def cpu_isa() -> str:
    """The widest instructions of this CPU that torch is told to use: amx, avx512_bf16, avx512, avx2, or "" for others.

    ATEN_CPU_CAPABILITY lowers torch's own kernels and ONEDNN_MAX_CPU_ISA its matrix products; what we choose follows.
    """
    level, has = torch.backends.cpu.get_cpu_capability(), torch.cpu.get_capabilities()
    found = {
        "amx": level == "AVX512" and bool(has.get("amx_bf16")),
        "avx512_bf16": level == "AVX512" and bool(has.get("avx512_bf16")),
        "avx512": level == "AVX512",
        "avx2": level in ("AVX512", "AVX2"),
    }
    most = ONEDNN_LEVELS.get(os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper(), "amx")
    allowed = list(found)[list(found).index(most) :]
    return next((isa for isa in allowed if found[isa]), "")


def autocast(model: nn.Module) -> torch.autocast:
    """The mixed precision that `model`'s frozen weights were loaded for."""
    matrices = (p for p in model.parameters() if not p.requires_grad and p.ndim > 1)
    weight = next(matrices, None)
    weight = next(model.parameters()) if weight is None else weight  # a plain classifier freezes none
    return torch.autocast(weight.device.type, weight.dtype, enabled=weight.dtype != torch.float32)
