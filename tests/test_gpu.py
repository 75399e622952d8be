"""What only a GPU can show: that it computes what a CPU does, goes on exactly, and works in every precision."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import PNDMScheduler
from PIL import Image
from runs import TINY_DDPM, stop_after, tiny_run, weights
from torch import Tensor
from torch._dynamo.utils import counters

from gvr_lightning.app.draw import draw_images
from gvr_lightning.config.folder import conf_folder
from gvr_lightning.config.sampling import read_sample_line
from gvr_lightning.diffusion.ddim import DDIM
from gvr_lightning.diffusion.sampler import Sampler, draw
from gvr_lightning.errors import Interrupted
from gvr_lightning.models.unet import UNet, unet
from gvr_lightning.optim.ema import MovingAverage
from gvr_lightning.tasks.base import BaseTask

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

of_compiling = pytest.mark.filterwarnings(  # torch 2.11's own
    "ignore:The .grad attribute of a Tensor that is not a leaf",
    "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning",
    "ignore:TensorFloat32 tensor cores for float32:UserWarning",  # trainer.tf32's business
    "ignore:The CUDA Graph is empty:UserWarning",  # of one that keeps the memory, which torch hides but from pytest
    "ignore:Synchronization debug mode is a prototype:UserWarning",
    "ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning",  # diffusers' question after torch's version
)
GPU, EXACT = "trainer.accelerator=gpu", "trainer.precision=64-true"
REGULARIZERS = sorted(path.stem for path in (conf_folder() / "regularizer").glob("*.yaml"))
ONCE = [name for name in REGULARIZERS if not name.startswith("sam")]  # whose gradients a scaler can have
TASKS = {
    "ddpm": [*TINY_DDPM, "extractor=none"],
    "ddpm of two draws": [*TINY_DDPM, "extractor=none", "regularizer=two_view"],
}


def largest_difference(a: Path, b: Path) -> float:
    """Of any weight of two runs, relative to the largest of its tensor."""
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    gaps = [(x.cpu() - theirs[k].cpu()).abs().max() / (1 + x.cpu().abs().max()) for k, x in ours.items() if x.numel()]
    return max(float(gap) for gap in gaps)


@pytest.mark.parametrize(
    "overrides", [[f"regularizer={name}"] for name in REGULARIZERS] + list(TASKS.values()), ids=str
)
def test_it_computes_what_a_cpu_does(overrides: list[str], tmp_path: Path) -> None:
    """In float64, where rounding is no excuse: six updates with label noise or not, and the figures of the test."""
    noise = [] if "task=ddpm" in overrides else ["label_noise=symmetric", "label_noise.rate=0.3"]
    for name in ("cpu", "gpu"):
        tiny_run(tmp_path / name, *overrides, *noise, EXACT, f"trainer.accelerator={name}")
    rounding = 1e-6 if "task=ddpm" in overrides else 1e-9  # diffusers embeds the timesteps in float32
    assert largest_difference(tmp_path / "cpu", tmp_path / "gpu") < rounding


GRAPHS = ["task.compile=true", "task.cuda_graphs=true"]
EVERY_KIND = [
    ["regularizer=gvr", *GRAPHS],
    ["regularizer=gvr_last_stage"],
    ["regularizer=gvr_published"],
    ["regularizer=sam_agr"],
    TASKS["ddpm"],
]


@of_compiling
@pytest.mark.parametrize("overrides", EVERY_KIND, ids=str)
def test_the_same_again_bit_for_bit(overrides: list[str], tmp_path: Path) -> None:
    """In one process, where autograd's threads have counted on since the run before."""
    for name in ("first", "second", "third"):
        tiny_run(tmp_path / name, *overrides, GPU, "trainer.deterministic=true")
    assert largest_difference(tmp_path / "first", tmp_path / "second") == 0
    assert largest_difference(tmp_path / "first", tmp_path / "third") == 0


@of_compiling
@pytest.mark.parametrize("overrides", EVERY_KIND, ids=str)
def test_it_goes_on_bit_for_bit(overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = [*overrides, GPU, "trainer.deterministic=true", "checkpoint.every_n_steps=1"]
    tiny_run(tmp_path / "whole", *common)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(patch, 3, signal.SIGINT)
        tiny_run(tmp_path / "stopped", *common)
    tiny_run(tmp_path / "stopped", *common, f"resume={tmp_path / 'stopped'}")
    ours, theirs = weights(tmp_path / "stopped"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "bf16-true"])
@pytest.mark.parametrize("overrides", [[f"regularizer={name}"] for name in ONCE] + list(TASKS.values()), ids=str)
def test_every_precision(precision: str, overrides: list[str], tmp_path: Path) -> None:
    """Within a few per cent of what float32 finds."""
    losses = [
        tiny_run(tmp_path / name, *overrides, GPU, f"trainer.precision={name}")["metrics"]["train/loss"]
        for name in ("32-true", precision)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


COMPILED = [
    ["regularizer=none", "task.clip_norm=1", "label_noise=symmetric"],
    ["regularizer=gvr", "task.accumulate=2", "task.ema_decay=0.9"],
    ["regularizer=gvr_last_stage", "task.non_finite=skip"],
    ["regularizer=gvr_one_view", "trainer.precision=bf16-mixed"],
    ["regularizer=sam_agr"],
    TASKS["ddpm"],
    [*TASKS["ddpm of two draws"], "model.dropout=0.3"],
]


@of_compiling
@pytest.mark.parametrize("overrides", COMPILED, ids=str)
def test_cuda_graphs_change_no_bit(overrides: list[str], tmp_path: Path) -> None:
    """Of four epochs with a smaller last batch: the same code is launched otherwise, and what is drawn is the same."""
    torch.compiler.reset()
    counters.clear()
    common = [*overrides, GPU, "task.compile=true", "trainer.deterministic=true", "epochs=4"]
    for graphs in ("true", "false"):
        tiny_run(tmp_path / graphs, *common, f"task.cuda_graphs={graphs}")
        assert not counters["inductor"]["cudagraph_skips"], graphs
    assert largest_difference(tmp_path / "true", tmp_path / "false") == 0


@of_compiling
def test_compiled_steps_wait_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the graphs are there, from the fifth update on."""
    torch.compiler.reset()
    train, updates = BaseTask.training_step, [0]

    def watched(self: BaseTask, *arguments: object) -> None:
        updates[0] += 1
        torch.cuda.set_sync_debug_mode("error" if updates[0] > 5 else "default")
        try:
            train(self, *arguments)  # type: ignore[arg-type]
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(BaseTask, "training_step", watched)
    tiny_run(tmp_path, "regularizer=gvr", GPU, *GRAPHS, "batch_size=16", "trainer.log_every_n_steps=1000")
    assert updates[0] == 10


SETTINGS = [
    ["task.compile=true", "regularizer=gvr"],
    ["task.channels_last=true", "regularizer=gvr"],
    ["task.accumulate=2", "regularizer=gvr"],
    ["optimizer=acprop", "regularizer=gvr_agr"],
    ["data.on_device=false"],
    ["augmentation=trivial", "mix=both", "regularizer=gvr"],
    ["task.non_finite=skip"],
    ["task.clip_norm=1"],
    ["trainer=ddp", "trainer.devices=1"],
    ["trainer=fsdp", "trainer.devices=1"],
]


@of_compiling
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_settings(setting: list[str], tmp_path: Path) -> None:
    losses = [
        tiny_run(tmp_path / name, *setting, "trainer.accelerator=" + name)["metrics"]["train/loss"]
        for name in ("cpu", "gpu")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@of_compiling
@pytest.mark.parametrize("is_compiled", [False, True], ids=["as it is", "compiled"])
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
def test_replayed_drawing_changes_no_bit(bf16: bool, is_compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches of two sizes, also by a scheduler that keeps predictions, and of an average of weights."""
    network = unet((3, 32, 32), 0, widths=[32, 64], blocks=1, attention=[False, True], groups=8).to("cuda").eval()
    if is_compiled:
        network.compile_backbone()
    replayed = list[torch.cuda.CUDAGraph]()
    replay_ = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: replayed.append(graph) or replay_(graph))
    for drawer in (network, MovingAverage(network, 0.9).module.eval()):
        for scheduler in (DDIM(num_train_timesteps=100), PNDMScheduler(num_train_timesteps=100)):
            drawn = []
            for capturable in (True, False):
                with monkeypatch.context() as patch:
                    patch.setattr(UNet, "capturable", capturable)
                    batches = draw(Sampler(scheduler, 10), drawer, (3, 32, 32), 20, 3, 16, bf16)
                    drawn.append(torch.cat(list(batches)))
            assert drawn[0].float().std() > 0 and torch.equal(*drawn)
    assert len(set(replayed)) == 2 * 2 * 2 and len(replayed) >= 9 * len(set(replayed))


def test_a_network_that_cannot_be_captured_does_no_harm(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """One that reads a value: a line says so, its images are right, and so is all that follows."""
    network = unet((3, 32, 32), 0, widths=[32, 64], blocks=1, attention=[False, True], groups=8).to("cuda").eval()

    def drawn() -> Tensor:
        return torch.cat(list(draw(Sampler(DDIM(num_train_timesteps=100), 10), network, (3, 32, 32), 4)))

    plain = drawn()
    reading = network.register_forward_pre_hook(lambda module, inputs: inputs[0][0].sum().item() and None)
    assert torch.equal(drawn(), plain)
    assert "drawing: launched kernel by kernel: " in capfd.readouterr().err
    reading.remove()
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    torch.manual_seed(0)
    numbers = torch.randn(5, device="cuda")
    torch.manual_seed(0)
    assert torch.equal(torch.randn(5, device="cuda"), numbers)
    assert torch.equal(drawn(), plain) and capfd.readouterr().err == ""


def test_a_seed_means_the_same_images_on_both(tmp_path: Path) -> None:
    tiny_run(tmp_path / "run", *TASKS["ddpm"])
    grids = {}
    for device in ("cpu", "cuda"):
        settings, sampler = read_sample_line([f"ckpt={tmp_path / 'run'}", f"device={device}", "n=8", "steps=5"])
        draw_images(sampler=sampler, **settings | {"out": str(tmp_path / f"{device}.png")})
        grids[device] = np.asarray(Image.open(tmp_path / f"{device}.png")).astype(int)
    assert grids["cpu"].std() > 0 and abs(grids["cpu"] - grids["cuda"]).max() <= 1  # of 255


def test_what_is_scored(tmp_path: Path) -> None:
    """FID and IS with the classifier as features, on both."""
    found = [tiny_run(tmp_path / name, *TINY_DDPM, f"trainer.accelerator={name}")["metrics"] for name in ("cpu", "gpu")]
    assert found[1]["fid"] == pytest.approx(found[0]["fid"], rel=0.02)
