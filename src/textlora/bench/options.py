"""What a benchmark measures: its flags, checked. Loads nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from textlora.errors import UsageError, closest

# What most machines have, on one that has more: the environment that keeps oneDNN, MKL (torch's products in fp32) and
# torch's own kernels to it.
ISA = {
    "": {},
    "avx512": {
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
        "ATEN_CPU_CAPABILITY": "avx512",
    },
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """One benchmark. The defaults take minutes on two cores."""

    base: str = "minilm"
    base_weights: str = ""  # a folder, or random:SEED: speed depends on shapes alone
    tokenizer: str = ""  # a folder; random weights without one: minilm's
    data: str = "mini-news"
    rows: int = 4096  # training rows at most, a random part
    rounds: int = 3
    seconds: float = 8.0  # of a side's round, at least one step
    threads: int = 0  # 0: torch's own choice
    isa: str = ""
    peers: bool = False
    lora_r: int = 10
    target_modules: str = ""  # with commas, among them what reads a block's input; "": the base's query and value

    def __post_init__(self) -> None:
        for name in ("rows", "rounds", "seconds", "lora_r"):
            if not getattr(self, name) > 0:
                raise UsageError(
                    f"--{name.replace('_', '-')} must be above 0, got {getattr(self, name)}", "leave it out"
                )
        if self.threads < 0:
            raise UsageError(f"--threads must not be negative, got {self.threads}", "leave it out")
        if self.isa not in ISA:
            raise UsageError(f"there is no --isa {self.isa!r}", closest(self.isa, [name for name in ISA if name]))

    @property
    def targets(self) -> list[str]:
        """The modules with adapters, as told."""
        return [name.strip() for name in self.target_modules.split(",") if name.strip()]

    @property
    def environment(self) -> dict[str, str]:
        """What every side's process is started with, beside the caller's own environment."""
        threads = {} if not self.threads else dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS"), str(self.threads))
        return ISA[self.isa] | threads
