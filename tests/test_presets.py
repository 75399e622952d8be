"""The trainer's presets: what the CPU says of itself, what reaches torch, and that one's own keys win."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.profilers import PassThroughProfiler, SimpleProfiler
from omegaconf import DictConfig
from runs import TINY_CNN, tiny_run

from gvr_lightning.app.build import build_data, build_task
from gvr_lightning.callbacks.changes import changes
from gvr_lightning.config import cpu
from gvr_lightning.config.folder import conf_folder
from gvr_lightning.config.optimizer import optimizer_node

sys.path.append(str(Path(__file__).parents[1] / "experiments" / "benchmarks"))
import gpu_step


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("config", overrides=["name=test", *overrides])


@pytest.mark.parametrize(
    ("flags", "precision"),
    [
        ("fpu avx2 fma", "32-true"),
        ("avx2 avx512f avx512_bf16 amx_tile", "bf16-mixed"),
        ("avx2 amx_bf16", "bf16-mixed"),
        ("avx512_bf16x", "32-true"),
        (None, "32-true"),
    ],
)
def test_the_cpu_preset_has_bf16_where_the_cpu_has(
    flags: str | None, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    cfg = composed("trainer=cpu")
    assert (cfg.trainer.precision, cfg.trainer.accelerator, cfg.task.channels_last) == (precision, "cpu", True)


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
def test_ones_own_keys_win_over_a_preset(preset: str) -> None:
    own = {"trainer.precision": "64-true", "task.channels_last": False, "trainer.fused": False, "trainer.tf32": "none"}
    cfg = composed(*(f"{key}={value}" for key, value in own.items()), f"trainer={preset}")
    assert (cfg.trainer.precision, cfg.task.channels_last) == ("64-true", False)
    assert (cfg.trainer.fused, cfg.trainer.tf32) == (False, "none")


@pytest.fixture
def switches() -> Iterator[None]:
    """Of torch's, as they were."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.allow_tf32
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]
    torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("switches")
@pytest.mark.parametrize(
    ("keys", "products", "convolutions"),
    [
        (["trainer.tf32=all"], "high", True),
        (["trainer=exact", "trainer.accelerator=cpu"], "highest", False),
        (["trainer.tf32=convolutions"], "highest", True),
        (["trainer=exact", "trainer.tf32=null"], "highest", True),
    ],
    ids=str,
)
def test_which_products_may_be_rounded_reaches_torch(
    keys: list[str], products: str, convolutions: bool, tmp_path: Path
) -> None:
    from gvr_lightning.app.trainer import build_trainer

    build_trainer(composed("trainer.accelerator=cpu", *keys), tmp_path, [])
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == (products, convolutions)
    assert torch.are_deterministic_algorithms_enabled() is ("trainer=exact" in keys)


def plain(**optimizer: Any) -> dict[str, Any]:
    return {"trainer": {"fused": True}, "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1} | optimizer}


def test_an_optimizer_is_fused_where_it_can_be_and_nothing_else_was_said() -> None:
    assert optimizer_node(plain())["fused"] is True
    assert optimizer_node(plain(fused=None))["fused"] is None
    assert optimizer_node(plain() | {"trainer": {"fused": False}}) == plain()["optimizer"]
    assert optimizer_node({"optimizer": {"_target_": "torch.optim.Adam"}}) == {"_target_": "torch.optim.Adam"}
    for other in ({"foreach": True}, {"_target_": "torch.optim.RMSprop"}, {"_target_": "timm.optim.Adan"}):
        assert "fused" not in optimizer_node(plain(**other))


def test_the_run_s_optimizer_is_the_fused_one_within_any_wrap() -> None:
    for wrap in ("none", "sam_agr"):
        cfg = composed(f"regularizer={wrap}", "trainer.fused=true", "data.max_train=80", *TINY_CNN)
        (group,) = build_task(cfg, build_data(cfg)).plain_optimizer().param_groups
        assert group["fused"] is True


def test_a_run_goes_on_with_a_fused_optimizer(
    finished: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = ["epochs=2", "scheduler=cosine", "optimizer=adamw"]
    folder = Path(shutil.copytree(finished(*before), tmp_path / "run"))
    tiny_run(folder, *before, "epochs=3", "trainer.fused=true", "task.channels_last=true", f"resume={folder}")
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]
    assert content["param_groups"][0]["fused"] is True
    assert {float(state["step"]) for state in content["state"].values()} == {9.0}
    said = capsys.readouterr().err
    assert "optimizer.fused=True instead of None" in said and "task.channels_last=True instead of False" in said


def test_another_precision_is_told() -> None:
    old, new = ({"trainer": {"precision": precision}} for precision in ("32-true", "bf16-mixed"))
    assert changes(old, new).said == ["trainer.precision=bf16-mixed instead of 32-true"]
    assert changes({"trainer": {}}, new).said == changes(new, new).said == []


@pytest.mark.parametrize(
    ("keys", "kind"),
    [([], PassThroughProfiler), (["+trainer.profiler=simple"], SimpleProfiler)],
    ids=["none", "simple"],
)
def test_a_profiler_that_is_asked_for_is_there(tmp_path: Path, keys: list[str], kind: type) -> None:
    from gvr_lightning.app.trainer import build_trainer

    trainer = build_trainer(composed("trainer.accelerator=cpu", *keys), tmp_path, [])
    assert type(trainer.profiler) is kind
    with trainer.profiler.profile("[action]") as action:
        assert action == "[action]"
    assert ("[action]" in trainer.profiler.summary()) == (kind is SimpleProfiler)


def test_the_benchmark_of_a_gpus_step_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, where it has no kernels to count."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    size = ["--model", "small_cnn", "--batch", "2", "--steps", "24"]
    gpu_step.main(["--accelerator", "cpu", *size, "--presets", "float32", "--regularizers", "none"])
    *_, row = capsys.readouterr().out.splitlines()
    name, regularizer, kernels, waits, speed, share = row.split()
    assert (name, regularizer, kernels, waits) == ("float32", "none", "0", "0.0") and float(speed) > 0 < float(share)
