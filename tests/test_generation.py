"""Diffusion runs: samples, scores, the moving average at every hook, and what gvr-sample makes of a checkpoint."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDPMPipeline
from PIL import Image
from runs import TINY_DDPM, tiny_run, weights

from gvr_lightning.app import sample
from gvr_lightning.callbacks.generation import Generation
from gvr_lightning.checkpoint import load_network
from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.data.digits import Digits
from gvr_lightning.errors import Interrupted, UserError
from gvr_lightning.metrics.scoring import Scoring
from gvr_lightning.recording.csv import read_metrics
from gvr_lightning.recording.images import save_grid
from gvr_lightning.tasks.diffusion import DiffusionTask

UNSCORED = [*TINY_DDPM, "extractor=none"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that others draw from."""
    folder = tmp_path_factory.mktemp("trained")
    tiny_run(folder, *UNSCORED, "optimizer=adan", "regularizer=agr", "lr=0.01")
    return folder


def drawn(trained: Path, *settings: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What gvr-sample complains of, "" if all is well."""
    monkeypatch.setattr("sys.argv", ["gvr-sample", f"ckpt={trained}", *settings])
    try:
        sample.main()
    except SystemExit as stop:
        return str(stop.code)
    return ""


# --- a run


def test_what_a_generation_run_leaves(tmp_path: Path) -> None:
    settings = [*TINY_DDPM, "epochs=3", "generation.every_n_epochs=1", "generation.score_every_n_epochs=2"]
    summary = tiny_run(tmp_path, *settings, "optimizer=adan", "regularizer=agr")
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == ["denoising.png", "epoch_0001.png", "epoch_0002.png", "final.png"]
    metrics = summary["metrics"]
    assert summary["task"] == "ddpm" and metrics["num_images"] == 70 and metrics["extractor"] == "classifier"
    assert len(metrics["extractor_hash"]) == 64
    assert {"fid", "is/mean", "is/std", "real/fid", "real/is/mean", "test/loss", "val/loss_best"} <= metrics.keys()
    assert metrics["real/fid"] < metrics["fid"]  # of a network that has seen nine batches
    assert summary["protocol"]["weights"] == "average" and summary["protocol"]["drawn"] == "DDIM, 3 steps, eta 0"
    scored = [row for row in read_metrics(tmp_path / "metrics.csv") if "fid" in row]
    assert [row["epoch"] for row in scored] == ["1", "2"]  # after the second epoch, and with the test after the third
    assert float(scored[-1]["fid"]) == metrics["fid"]
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_generation_changes_nothing_in_training(tmp_path: Path) -> None:
    tiny_run(tmp_path / "often", *UNSCORED, "generation.every_n_epochs=1", "model.dropout=0.2")
    tiny_run(tmp_path / "never", *UNSCORED, "generation.every_n_epochs=0", "model.dropout=0.2")
    never = weights(tmp_path / "never")
    for name, value in weights(tmp_path / "often").items():
        assert torch.equal(value, never[name]), name


@pytest.mark.parametrize("regularizer", ["two_view", "gvr", "gvr_split", "gvr_last_stage", "gvr_published", "gvr_agr"])
def test_every_regularizer_trains_a_diffusion_model(regularizer: str, tmp_path: Path) -> None:
    summary = tiny_run(tmp_path, *UNSCORED, f"regularizer={regularizer}", "alpha=0.1")
    assert summary["status"] == "finished"
    assert (summary["metrics"]["train/penalty"] > 0) == (regularizer != "two_view")


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam", "adamw", "adan", "acprop"])
@pytest.mark.parametrize("regularizer", ["none", "agr"])
def test_the_six_optimizers(optimizer: str, regularizer: str, tmp_path: Path) -> None:
    summary = tiny_run(tmp_path, *UNSCORED, f"optimizer={optimizer}", f"regularizer={regularizer}", "epochs=1")
    assert summary["status"] == "finished" and summary["metrics"]["test/loss"] > 0


def test_per_sample_gvr_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="linear last layer"):
        tiny_run(tmp_path, *UNSCORED, "regularizer=gvr_per_sample")


@pytest.mark.parametrize("prediction", ["v", "sample"])
def test_other_predictions(prediction: str, tmp_path: Path) -> None:
    settings = [f"task.noise.prediction={prediction}", "task.noise.beta_schedule=cosine"]
    assert tiny_run(tmp_path, *UNSCORED, *settings)["status"] == "finished"


def test_accumulated_micro_batches_are_the_same_run(tmp_path: Path) -> None:
    """With SGD and no clipping, which unlike Adam show a gradient of another size."""
    settings = [*UNSCORED, "optimizer=sgd", "lr=0.05", "task.clip_norm=null"]
    for name, parts in (("whole", 1), ("parts", 4)):
        tiny_run(tmp_path / name, *settings, f"task.accumulate={parts}")
    divided = weights(tmp_path / "parts")
    for name, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(divided[name], value, rtol=1e-4, atol=1e-6)


# --- the moving average


def test_the_average_is_right_at_every_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The raw weights and an average of our own are followed update by update; every hook must find just these."""
    state: dict[str, Any] = {"updates": 0, "hooks": set()}

    def flat(module: torch.nn.Module) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in module.parameters()])

    def look(hook: str, task: DiffusionTask) -> None:
        state["hooks"].add(hook)
        if not state["updates"]:
            assert torch.equal(flat(task.averaged), flat(task.model)), hook  # before the first update: the same
        else:
            assert torch.equal(flat(task.model), state["raw"]), hook
            torch.testing.assert_close(flat(task.averaged), state["average"])

    update = DiffusionTask.training_step

    def step(self: DiffusionTask, batch: Any, batch_idx: int) -> None:
        look("training_step", self)
        update(self, batch, batch_idx)
        state["raw"], n = flat(self.model).clone(), state["updates"]
        decay = min(0.9, (1 + n) / (10 + n)) if n else 0.0
        state["average"] = decay * state.get("average", 0.0) + (1 - decay) * state["raw"]
        state["updates"] += 1

    hooks = ["on_train_batch_end", "on_validation_start", "on_train_epoch_end", "on_train_end", "on_test_epoch_end"]
    for hook in [*hooks, "on_save_checkpoint", "on_validation_batch_end", "on_train_start"]:
        monkeypatch.setattr(Generation, hook, lambda s, trainer, task, *_, hook=hook: look(hook, task))
    monkeypatch.setattr(DiffusionTask, "training_step", step)
    tiny_run(tmp_path, *UNSCORED, "task.ema_decay=0.9", "lr=0.01")
    assert state["updates"] == 6 and len(state["hooks"]) == 9
    held = weights(tmp_path)
    raw = torch.cat([v.flatten() for n, v in held.items() if n.startswith("model.")])
    average = torch.cat([v.flatten() for n, v in held.items() if n.startswith("ema.module.")])
    assert torch.equal(raw, state["raw"])
    torch.testing.assert_close(average, state["average"])
    assert not torch.equal(raw, average)


def test_a_checkpoint_written_during_validation_holds_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "within.ckpt"

    def save(self: Generation, trainer: Any, task: Any, *_: Any) -> None:
        trainer.save_checkpoint(path)

    monkeypatch.setattr(Generation, "on_validation_batch_end", save)
    tiny_run(tmp_path / "run", *UNSCORED, "lr=0.01")
    within, last = torch.load(path, weights_only=True)["state_dict"], weights(tmp_path / "run")
    assert within.keys() == last.keys() and all(torch.equal(within[n], last[n]) for n in last)
    raw, averaged = load_network(path, "raw").network, load_network(path).network
    assert all(torch.equal(p, last[f"model.{n}"]) for n, p in raw.state_dict().items())
    assert all(torch.equal(p, last[f"ema.module.{n}"]) for n, p in averaged.state_dict().items())


def test_an_interrupt_keeps_the_average_of_the_last_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = ViewsDataModule.on_after_batch_transfer
    count = [0]

    def interrupted(self: ViewsDataModule, batch: torch.Tensor, dataloader_idx: int) -> Any:
        count[0] += 1
        if count[0] == 2:
            signal.raise_signal(signal.SIGTERM)
        return original(self, batch, dataloader_idx)

    monkeypatch.setattr(ViewsDataModule, "on_after_batch_transfer", interrupted)
    with pytest.raises(Interrupted):
        tiny_run(tmp_path, *UNSCORED)
    assert int(weights(tmp_path)["ema.n_averaged"]) == 2


# --- gvr-sample


def test_a_grid_from_a_run_is_the_run_s_own(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "new" / "grid.png"
    assert drawn(trained, "n=4", "steps=3", "batch_size=3", f"out={out}", monkeypatch=monkeypatch) == ""
    ours, theirs = (np.asarray(Image.open(p)).astype(int) for p in (out, trained / "samples" / "final.png"))
    assert np.abs(ours - theirs).max() <= 1  # the batch size may change the last bit of a float


def test_other_samplers(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for sampler in ("sampler._target_=diffusers.UniPCMultistepScheduler", "sampler.eta=1", "sampler=ddpm"):
        out = f"out={tmp_path / 'x.png'}"
        assert drawn(trained, "n=2", "steps=4", sampler, out, monkeypatch=monkeypatch) == "", sampler


def test_to_diffusers_and_back(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "pipeline"
    assert drawn(trained, f"export={folder}", monkeypatch=monkeypatch) == ""
    ours = load_network(trained / "checkpoints" / "last.ckpt").network
    x, t = torch.randn(3, 1, 8, 8), torch.arange(3)
    pipeline: Any = DDPMPipeline.from_pretrained(folder)
    with torch.no_grad():
        torch.testing.assert_close(pipeline.unet(x, t).sample, ours((x, t)))
    assert pipeline.scheduler.config.variance_type == "fixed_large"
    ddim: Any = DDIMPipeline.from_pretrained(folder)
    ddim.set_progress_bar_config(disable=True)
    assert ddim(batch_size=2, num_inference_steps=2, output_type="np").images.shape == (2, 8, 8, 1)
    for source, name in ((trained, "a.png"), (folder, "b.png")):
        assert drawn(source, "n=4", "steps=3", f"out={tmp_path / name}", monkeypatch=monkeypatch) == ""
    a, b = (np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png"))
    assert (a == b).all()


def test_training_goes_on_from_a_pipeline_s_weights(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn(trained, f"export={tmp_path / 'pipeline'}", monkeypatch=monkeypatch)
    summary = tiny_run(tmp_path / "run", *UNSCORED, f"model.weights={tmp_path / 'pipeline'}", "lr=1e-12", "epochs=1")
    assert summary["status"] == "finished"
    before = weights(trained)
    for name, value in weights(tmp_path / "run").items():
        if name.startswith("model."):
            torch.testing.assert_close(value, before[name.replace("model.", "ema.module.", 1)])
    assert load_network(tmp_path / "run" / "checkpoints" / "last.ckpt").kind == "ddpm"  # without the folder, too


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        (["m=3"], "m=3: there is no such setting"),
        (["n=0"], "n=0: must be a whole number >= 1"),
        (["steps=5000"], "5000 steps are more than the 1000 timesteps"),
        (["sampler=dim"], "did you mean ddim"),
        (["sampler.stepz=3"], "did you mean sampler.steps"),
        (["out=grid.jpg"], "a grid is a .png"),
        (["device=gpuu"], "device=gpuu"),
        (["weights=best"], "one of ema, raw"),
        (["ckpt=nowhere"], "there is no checkpoint nowhere"),
        (["sampler._target_=diffusers.UniPCMultistepScheduler", "eta=0.5"], "has no eta"),
    ],
)
def test_mistakes_are_one_line(
    settings: list[str], part: str, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert drawn(trained, *settings, monkeypatch=monkeypatch) == "2"
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and part in error


def test_a_classifier_s_checkpoint_draws_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_run(tmp_path)
    assert drawn(tmp_path, monkeypatch=monkeypatch) == "2"
    assert "a classification run" in capsys.readouterr().err
    loaded = load_network(tmp_path / "checkpoints" / "last.ckpt")
    assert loaded.kind == "classification" and loaded.network(torch.zeros(1, *loaded.image_shape)).shape == (1, 10)


def test_a_grid_shows_every_image(tmp_path: Path) -> None:
    images = torch.arange(6, dtype=torch.uint8).mul(40).view(6, 1, 1, 1).expand(6, 3, 64, 64)
    save_grid(images, tmp_path / "a" / "grid.png", columns=3)
    picture = np.asarray(Image.open(tmp_path / "a" / "grid.png"))
    assert picture.shape == (2 * 66 + 2, 3 * 66 + 2, 3)
    assert [picture[2 + r * 66, 2 + c * 66, 0] for r in range(2) for c in range(3)] == [0, 40, 80, 120, 160, 200]
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "grid.png"]


def test_real_images_are_scored_from_the_whole_test_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder's images come class by class: its first 70 would be of one."""
    seen: list[torch.Tensor] = []
    original = Scoring.of

    def spy(self: Scoring, batches: list[torch.Tensor]) -> dict[str, float]:
        seen.extend(batches)
        return original(self, batches)

    monkeypatch.setattr(Scoring, "of", spy)
    tiny_run(tmp_path, *TINY_DDPM)
    test = Digits()().test.images
    rows = [next(i for i, image in enumerate(test) if torch.equal(image, real)) for real in seen[0]]
    assert len(rows) == len(set(rows)) == 70 and max(rows) > 340 and rows != sorted(rows)
