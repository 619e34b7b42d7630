"""The kernels of csrc/, compiled once for this machine and called through ctypes.

`Native` and reference.Reference, their twins in torch, have the same methods. The compiled file lies in the user's
cache, named by the hash of its source, flags and compiler: a new version, compiler or instruction set makes a new one.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from textlora import device
from textlora.engine.reference import Norm, Reference

SOURCES = Path(__file__).parent / "csrc"
# No fast-math: a NaN must stay one. libgomp isn't linked: the symbols are torch's own, and so are the threads.
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-w")
AVX2 = ("-mavx2", "-mfma")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq")
ISA_FLAGS = {
    "avx2": AVX2,
    "avx512": AVX512,
    "avx512_bf16": (*AVX512, "-mavx512bf16"),
    "amx": (*AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"),
}
SECONDS = 120  # after which a compiler is given up; it takes about one


def cache_folder() -> Path:
    """Where compiled kernels are kept: TEXTLORA_CACHE, else textlora/ in the user's cache folder."""
    named = os.environ.get("TEXTLORA_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "textlora"


class NotCompiled(Exception):
    """Why there are no compiled kernels here."""


@cache
def load() -> Native | Reference:
    """The compiled kernels, or their twins in torch, which know why they are used."""
    try:
        return Native(compiled(device.cpu_isa()))
    except NotCompiled as error:
        return Reference(str(error))


def compiled(isa: str) -> Path:
    """The shared library for a CPU of this kind (device.cpu_isa), compiled if the cache lacks it.

    Raises NotCompiled where there is no compiler, none that knows the flags, or no folder to write to.
    """
    if sys.platform != "linux" or isa not in ISA_FLAGS:
        raise NotCompiled(f"none are written for {sys.platform} on {platform.machine()}")
    compiler = shutil.which(os.environ.get("CXX") or "g++") or shutil.which("c++") or shutil.which("clang++")
    if not compiler:
        raise NotCompiled("there is no C++ compiler; install g++ for about twice the speed")
    files = sorted(SOURCES.iterdir())
    flags = (*FLAGS, *ISA_FLAGS[isa])
    digest = hashlib.sha256("\0".join((*flags, compiler, str(Path(compiler).resolve().stat().st_mtime))).encode())
    for file in files:
        digest.update(file.read_bytes())
    library = cache_folder() / f"kernels-{digest.hexdigest()[:16]}.so"
    if not library.exists():
        try:
            _build([compiler, *flags], files, library)
        except (OSError, subprocess.SubprocessError) as error:
            raise NotCompiled(str(error)) from error
    return library


def _build(compiler: list[str], files: list[Path], library: Path) -> None:
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:  # another process may be compiling the same
        objects = []
        for file in files:
            if file.suffix == ".cpp":
                objects.append(f"{folder}/{file.stem}.o")
                _run([*compiler, "-c", str(file), "-o", objects[-1]])
        built = Path(folder) / library.name
        _run([compiler[0], "-shared", "-o", str(built), *objects])
        built.replace(library)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        raise NotCompiled(f"{command[0]} failed: {(done.stderr.strip() or 'no message').splitlines()[0][:200]}")


# ------------------------------------------------------------------------------------------------------------- calls


def _argument(value: Any) -> Any:
    if value is None or isinstance(value, Tensor):
        return None if value is None else ctypes.c_void_p(value.data_ptr())
    return ctypes.c_float(value) if isinstance(value, float) else ctypes.c_int64(value)


def _rows(matrix: Tensor | None) -> tuple[Tensor | None, int]:
    """A matrix and how far its rows lie apart: it may be part of a wider one."""
    return matrix, 0 if matrix is None else matrix.stride(0)


class Native:
    """The compiled kernels. Matrices are of one type (bf16 or fp32); biases, norms and masks are fp32.

    Each is contiguous, but those that a product reads or writes, which may be columns of a wider one.
    """

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.tiles = bool(self.library.tiles_allowed())  # AMX: attention in one pass and `outer`, for bf16

    def _call(self, name: str, dtype: torch.dtype, *arguments: Any) -> None:
        kernel = getattr(self.library, name + ("_bf16" if dtype == torch.bfloat16 else "_fp32"))
        kernel(*map(_argument, arguments))

    def gelu_forward(self, out_TD: Tensor, slope_TD: Tensor | None, z_TD: Tensor, bias_D: Tensor) -> None:
        self._call("gelu_forward", z_TD.dtype, *_rows(out_TD), slope_TD, z_TD, bias_D, *z_TD.shape)

    def multiply(self, to_TD: Tensor, slope_TD: Tensor) -> None:
        self._call("multiply", to_TD.dtype, *_rows(to_TD), slope_TD, *to_TD.shape)

    def norm_forward(
        self,
        y_TD: Tensor,
        h_TD: Tensor,
        residual_TD: Tensor,
        bias_D: Tensor,
        norm: Norm,
        mean_T: Tensor,
        rstd_T: Tensor,
    ) -> None:
        rows = *_rows(y_TD), h_TD, *_rows(residual_TD)
        scales = bias_D, norm.gamma_D, norm.beta_D, mean_T, rstd_T, float(norm.eps)
        self._call("norm_forward", h_TD.dtype, *rows, *scales, *h_TD.shape)

    def norm_backward(
        self,
        dh_TD: Tensor,
        dy_TD: Tensor,
        more_TD: Tensor | None,
        h_TD: Tensor,
        norm: Norm,
        mean_T: Tensor,
        rstd_T: Tensor,
    ) -> None:
        rows = *_rows(dh_TD), *_rows(dy_TD), *_rows(more_TD), h_TD
        self._call("norm_backward", h_TD.dtype, *rows, mean_T, rstd_T, norm.gamma_D, *h_TD.shape)

    def softmax_forward(self, p_BHSS: Tensor, mask_BS: Tensor, position_HSS: Tensor | None, scale: float) -> None:
        self._call("softmax_forward", p_BHSS.dtype, p_BHSS, mask_BS, position_HSS, scale, *p_BHSS.shape[:3])

    def softmax_backward(self, dp_BHSS: Tensor, p_BHSS: Tensor, scale: float) -> None:
        S = p_BHSS.shape[-1]
        self._call("softmax_backward", p_BHSS.dtype, dp_BHSS, p_BHSS, scale, p_BHSS.numel() // S, S)

    def split_heads(self, heads_nBHSK: Tensor, rows: Tensor, bias: Tensor | None) -> None:
        self._call("split_heads", rows.dtype, heads_nBHSK, *_rows(rows), bias, *heads_nBHSK.shape)

    def join_heads(self, rows: Tensor, heads_nBHSK: Tensor) -> None:
        self._call("join_heads", rows.dtype, *_rows(rows), heads_nBHSK, *heads_nBHSK.shape)

    def dropout(self, to_TD: Tensor, from_TD: Tensor, seed: int, p: float, add: bool) -> None:
        below, by = int(p * 2**32), 1 / (1 - p)
        chance = seed, below, by, int(add)
        self._call("dropout", to_TD.dtype, *_rows(to_TD), *_rows(from_TD), *chance, *from_TD.shape)

    def outer(self, low_TR: Tensor, rows_TC: Tensor) -> Tensor:
        (T, R), C = low_TR.shape, rows_TC.shape[1]
        if not self.tiles or low_TR.dtype != torch.bfloat16 or C % 64:
            return Reference.outer(low_TR, rows_TC)
        sums_RC = torch.empty(R, C)
        self.library.outer(*map(_argument, (sums_RC, *_rows(low_TR), *_rows(rows_TC), T, R, C)))
        return sums_RC

    def attention_forward(self, out_TD: Tensor, *others: Any) -> None:
        self.library.attention_forward(*map(_argument, (*_rows(out_TD), *others)))

    def attention_backward(self, dqkv_T3D: Tensor, *others: Any) -> None:
        self.library.attention_backward(*map(_argument, (*_rows(dqkv_T3D), *others)))
