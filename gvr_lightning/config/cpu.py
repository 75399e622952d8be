"""The precision in which this machine's CPU is fast. Loads no torch."""

from pathlib import Path

from omegaconf import OmegaConf

CPUINFO = Path("/proc/cpuinfo")
BF16 = {
    "amx_bf16",
    "avx512_bf16",
}  # instructions that multiply it; without them torch does so by way of float32, slowly


def cpu_precision() -> str:
    """``bf16-mixed`` where the CPU multiplies bfloat16, else ``32-true``; also where nothing says what it can do."""
    try:
        flags = CPUINFO.read_text(encoding="utf-8", errors="replace").split()
    except OSError:  # not on Linux
        return "32-true"
    return "bf16-mixed" if BF16 & set(flags) else "32-true"


OmegaConf.register_new_resolver("cpu_precision", cpu_precision, replace=True)  # of conf/trainer/cpu.yaml
