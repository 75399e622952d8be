"""Where loss, penalty, optimizer, clipping and schedule meet: the order, step by step."""

import math
import weakref
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn

from gvr_lightning import AGR, GradientVariance
from gvr_lightning.data.augmentation import Augmentation
from gvr_lightning.data.batch import Batch
from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.data.image_set import ImageSet, Splits
from gvr_lightning.errors import TrainingError, UserError
from gvr_lightning.methods import agr
from gvr_lightning.methods.penalty import NoPenalty
from gvr_lightning.models.resnet import resnet
from gvr_lightning.models.small_cnn import small_cnn
from gvr_lightning.optim import schedules
from gvr_lightning.recording.csv import CsvLogger, read_metrics
from gvr_lightning.tasks.classification import ClassificationTask
from gvr_lightning.tasks.finite import require_finite_weights
from gvr_lightning.tasks.means import RunningMeans
from gvr_lightning.tasks.recording import AT_ONCE

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def data(n: int = 48, batch_size: int = 16, views: int = 2) -> ViewsDataModule:
    g = torch.Generator().manual_seed(0)
    train = ImageSet(torch.randint(0, 256, (n, 1, 8, 8), generator=g).to(torch.uint8), torch.arange(n) % 4)
    splits = Splits(train, ImageSet(train.images[:8], train.targets[:8]), ("a", "b", "c", "d"), "")
    module = ViewsDataModule(lambda: splits, Augmentation(1, False, 0), views, batch_size, val_fraction=0.0)
    module.setup()
    return module


def task(model: nn.Module | None = None, **options: Any) -> ClassificationTask:
    torch.manual_seed(0)
    settings = {"penalty": GradientVariance(0.1), "optimizer": SGD, "schedule": schedules.constant} | options
    return ClassificationTask(model=model or small_cnn((1, 8, 8), 4, width=8), num_classes=4, **settings)


def fit(
    module: ClassificationTask, source: ViewsDataModule, tmp_path: Path, resume: Path | None = None, **options: Any
) -> Trainer:
    settings = {"max_epochs": 2, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0} | options
    trainer = Trainer(**settings, default_root_dir=tmp_path)
    trainer.fit(module, source, ckpt_path=resume)
    return trainer


def plain_loop(
    module: ClassificationTask, source: ViewsDataModule, change_gradients: Any = lambda params: None
) -> nn.Module:
    """The same training without Lightning: the order is the documented one, by hand."""
    model, optimizer = module.model, SGD(module.model.parameters())
    here = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=0))))
    for epoch in range(2):
        source.trainer = SimpleNamespace(current_epoch=epoch, fit_loop=here)  # type: ignore[assignment]
        for index in source.train_dataloader():
            batch = source.batches.training(index, epoch)
            optimizer.zero_grad()
            module.penalty(model, F.cross_entropy, batch.views, batch.target, batch.keys).total.backward()
            change_gradients(list(model.parameters()))
            optimizer.step()
    return model


def assert_equal(ours: nn.Module, theirs: nn.Module, tolerance: float = 1e-6) -> None:
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=name)


def clip_then_agr(params: list[nn.Parameter]) -> None:
    nn.utils.clip_grad_norm_(params, 0.05)
    for p in params:
        if p.grad is not None and p.numel() > 1:
            p.grad *= 1 - p.grad.abs() / p.grad.abs().sum()


def agr_then_clip(params: list[nn.Parameter]) -> None:
    for p in params:
        p.grad *= 1 - p.grad.abs() / p.grad.abs().sum()
    nn.utils.clip_grad_norm_(params, 0.05)


def test_lightning_adds_nothing_to_the_plain_loop(tmp_path: Path) -> None:
    ours = task()
    trainer = fit(ours, data(), tmp_path)
    assert trainer.global_step == 6
    assert_equal(ours.model, plain_loop(task(), data()))


def test_clipping_comes_before_agr(tmp_path: Path) -> None:
    ours = task(wrap=AGR, clip_norm=0.05)
    fit(ours, data(), tmp_path)
    assert_equal(ours.model, plain_loop(task(), data(), clip_then_agr))
    with pytest.raises(AssertionError):  # the order matters, so the test can tell
        assert_equal(ours.model, plain_loop(task(), data(), agr_then_clip))


def test_clipping_by_value(tmp_path: Path) -> None:
    ours = task(clip_value=1e-3)
    fit(ours, data(), tmp_path)
    assert_equal(ours.model, plain_loop(task(), data(), lambda params: nn.utils.clip_grad_value_(params, 1e-3)))


def test_accumulation_is_the_whole_batch_s_gradient(tmp_path: Path) -> None:
    """Uneven micro-batches too: 16 by 3, and a last batch of 2 by 2."""
    runs = [task(penalty=NoPenalty(), accumulate=n) for n in (1, 3)]
    trainers = [fit(run, data(50), tmp_path) for run in runs]
    assert [t.global_step for t in trainers] == [8, 8]
    assert_equal(runs[0].model, runs[1].model, 1e-5)


def test_agr_comes_once_after_accumulation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = agr.agr_
    monkeypatch.setattr(agr, "agr_", lambda grads, *by: (calls.append(1), original(grads, *by))[1])
    runs = [task(penalty=NoPenalty(), wrap=AGR, accumulate=n) for n in (1, 4)]
    for run in runs:
        fit(run, data(), tmp_path)
    assert len(calls) == 12
    assert_equal(runs[0].model, runs[1].model, 1e-5)


def test_a_transform_that_zeroes_every_gradient_leaves_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agr, "agr_", lambda grads, *by: [g.zero_() for g in grads])
    ours = task(wrap=AGR)
    fit(ours, data(), tmp_path)
    assert_equal(ours.model, task().model, 0.0)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "64-true"])
def test_precisions(tmp_path: Path, precision: str) -> None:
    """fp16 with its scaler on the CPU: unscaled before clipping, so the result is float32's but for rounding."""
    options: dict[str, Any] = {"precision": precision}
    if precision == "16-mixed":
        options = {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))]}
    ours, exact = (task(wrap=AGR, clip_norm=0.5) for _ in range(2))
    trainer = fit(ours, data(), tmp_path, **options)
    fit(exact, data(), tmp_path)
    assert trainer.global_step == 6
    start, end, close = (
        torch.cat([p.detach().float().flatten() for p in m.model.parameters()]) for m in (task(), exact, ours)
    )
    assert (close - end).norm() < 0.25 * (end - start).norm()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo looks at every input's
@pytest.mark.parametrize("penalty", [{"layers": "head"}, {"layers": "last_stage", "subset": 4, "shared": True}])
def test_a_compiled_backbone_trains_as_the_eager_one(
    tmp_path: Path, penalty: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where several processes train; in one the loss is compiled as a whole, test_compiled_loss.py."""
    torch._dynamo.reset()
    monkeypatch.setattr(ClassificationTask, "on_train_start", lambda self: None)
    runs = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = resnet((1, 8, 8), 4, [4, 4], 1)
        if compiled:  # the eager backend: what is tested is the graph, and the code generator takes a minute
            model.compile_backbone = partial(model.compile_backbone, backend="aot_eager")  # type: ignore[method-assign]
        runs.append(task(model, penalty=GradientVariance(0.1, **penalty), compile=compiled))
        fit(runs[-1], data(), tmp_path)
    assert_equal(runs[0].model, runs[1].model, 1e-4)


def test_compile_and_double_backward_exclude_each_other() -> None:
    with pytest.raises(UserError, match="compile"):
        task(penalty=GradientVariance(layers="all"), compile=True)
    with pytest.raises(UserError, match="clip"):
        task(clip_norm=1.0, clip_value=1.0)


def test_gradients_from_before_a_run_are_no_part_of_its_first_update(tmp_path: Path) -> None:
    runs = []
    for gradient in (None, 1e3):
        runs.append(task())
        for p in runs[-1].model.parameters():
            p.grad = None if gradient is None else torch.full_like(p, gradient)
        fit(runs[-1], data(), tmp_path)
        assert all(p.grad is None for p in runs[-1].model.parameters())  # nor a step's in the next
    assert_equal(runs[0].model, runs[1].model, 0.0)


class Rates(Callback):
    """The learning rate of every update."""

    def __init__(self) -> None:
        self.lr: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        self.lr.append(optimizer.param_groups[0]["lr"])


def half_cosine(t: float, T: float) -> float:
    return 0.05 * (1 + math.cos(math.pi * t / T))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (schedules.constant, [0.1] * 12),
        (schedules.cosine, [half_cosine(t // 3, 4) for t in range(12)]),
        (partial(schedules.cosine, interval="step"), [half_cosine(t, 12) for t in range(12)]),
        (partial(schedules.warmup, warmup_steps=5), [0.1 * min(1, (t + 1) / 5) for t in range(12)]),
        (
            partial(schedules.warmup, warmup_steps=4, cosine=True),
            [0.1 * (t + 1) / 4 if t < 4 else half_cosine(t - 4, 8) for t in range(12)],
        ),
    ],
)
@pytest.mark.parametrize("wrap", [None, AGR])
def test_schedules_count_updates_or_epochs(tmp_path: Path, schedule: Any, expected: list[float], wrap: Any) -> None:
    rates = Rates()
    fit(task(schedule=schedule, wrap=wrap, accumulate=2), data(), tmp_path, max_epochs=4, callbacks=[rates])
    assert rates.lr == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("epochs", [1, 4])
def test_onecycle_peaks_at_the_learning_rate(tmp_path: Path, epochs: int) -> None:
    rates = Rates()
    fit(task(schedule=schedules.onecycle), data(), tmp_path, max_epochs=epochs, callbacks=[rates])
    assert max(rates.lr) == pytest.approx(0.1, rel=0.02) and rates.lr[0] < 0.01 and rates.lr[-1] < 0.01


def test_a_loss_that_is_not_finite_stops_before_it_does_harm(tmp_path: Path) -> None:
    ours = task(optimizer=partial(torch.optim.SGD, lr=1e20))
    with pytest.raises(TrainingError, match=r"step 1 .*penalty .*alpha 0.1.*lower lr \(now 1e\+20\)"):
        fit(ours, data(), tmp_path)


def test_a_gradient_that_is_not_finite_stops_before_the_update(tmp_path: Path) -> None:
    """The loss being finite: the weights are those of the update before."""
    ours, calls = task(penalty=NoPenalty()), [0]

    def criterion(output: Tensor, target: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] > 2:  # two views: the second update
            output.register_hook(lambda grad: grad * float("inf"))
        return F.cross_entropy(output, target)

    ours.criterion = criterion  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"the gradient is not finite at step 1 \(epoch 0\): losses 1\.\d+, 1\."):
        fit(ours, data(), tmp_path)
    expected = task(penalty=NoPenalty())
    fit(expected, data(), tmp_path, max_steps=1)
    assert_equal(ours.model, expected.model, 0.0)


@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step")  # the scaler lets the first update out
def test_a_scaler_s_overflows_are_its_own_affair(tmp_path: Path) -> None:
    """It lets such updates out and tries a smaller scale; they are not those that stop a run or are counted."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**26)
    ours = task(penalty=NoPenalty())
    before = {name: p.detach().clone() for name, p in ours.model.named_parameters()}
    fit(ours, data(), tmp_path, max_epochs=6, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    assert scaler.get_scale() < 2.0**26 and ours.non_finite.skipped == 0
    for name, p in ours.model.named_parameters():
        assert p.isfinite().all() and not torch.equal(before[name], p), name


def test_the_figures_of_an_epoch_can_be_monitored(tmp_path: Path) -> None:
    ours = task()
    found = fit(ours, data(), tmp_path).callback_metrics
    for name in ("train/loss", "train/penalty", "train/penalty_share", "train/acc", "train/view_agreement"):
        assert float(found[name]) == pytest.approx(ours.epoch_row.last[name], rel=1e-6)


def test_frozen_parameters_stay_and_are_not_the_optimizer_s(tmp_path: Path) -> None:
    given: list[nn.Parameter] = []

    def optimizer(params: list[nn.Parameter]) -> torch.optim.Optimizer:
        given.extend(params)
        return SGD(params, weight_decay=0.1)

    model = small_cnn((1, 8, 8), 4, width=8)
    model.backbone.early.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    fit(task(model, optimizer=optimizer, wrap=AGR), data(), tmp_path)
    learning = {name: p for name, p in model.named_parameters() if not name.startswith("backbone.early")}
    assert [id(p) for p in given] == [id(p) for p in learning.values()] and len(given) == 8
    for name, p in model.named_parameters():
        assert torch.equal(before[name], p) == (name not in learning), name


class Watch(nn.Module):
    """Keeps what it is given, and passes it on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bool, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((self.training, x.detach()))
        return x


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_memory_format_is_that_of_images_and_weights(tmp_path: Path, channels_last: bool) -> None:
    images = torch.randint(0, 256, (20, 3, 6, 5), dtype=torch.uint8)
    part = ImageSet(images, torch.arange(20) % 4)
    source = ViewsDataModule(lambda: Splits(part, part, tuple("abcd"), ""), Augmentation(1, False, 0), val_fraction=0.2)
    source.setup()
    model, watch = small_cnn((3, 6, 5), 4, width=8), Watch()
    model.backbone.early.insert(0, watch)
    ours = task(model, penalty=NoPenalty(), channels_last=channels_last)
    fit(ours, source, tmp_path, max_epochs=1)
    assert {training for training, _ in watch.seen} == {True, False}
    wide = [p for p in model.parameters() if p.ndim == 4 and p.shape[1] > 1]
    assert wide and ours.automatic_optimization is False
    for tensor in [*(x for _, x in watch.seen), *wide]:
        assert tensor.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert tensor.is_contiguous() != channels_last


class Ones(nn.Module):
    """As many ones, whatever it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0 + 1


def masks(folder: Path, source: ViewsDataModule, **options: Any) -> list[list[float]]:
    """What dropout leaves of ones in each pass of a training."""
    watch, model = Watch(), small_cnn((1, 8, 8), 4, width=8)
    model.backbone.last_stage.extend([Ones(), nn.Dropout(0.5), watch])
    fit(task(model, penalty=NoPenalty(), **options), source, folder)
    return [x.flatten().tolist() for training, x in watch.seen if training]


def test_dropout_is_another_in_every_update_and_the_same_in_every_run_of_a_seed(tmp_path: Path) -> None:
    ones = [data(), data(), data()]
    first, again, other = (masks(tmp_path, source, seed=seed) for source, seed in zip(ones, (0, 0, 1), strict=True))
    assert len(first) == 12  # 6 updates of two views
    assert first == again and all(a != b for a, b in zip(first, other, strict=True))
    assert len({tuple(mask) for mask in first}) == 12


def test_dropout_depends_on_the_update_s_number_and_not_on_what_was_drawn_before(tmp_path: Path) -> None:
    disturbed = data()
    augmentation = disturbed.augmentation
    disturbed.augmentation = lambda *arguments: (torch.rand(7), augmentation(*arguments))[1]
    assert masks(tmp_path, disturbed) == masks(tmp_path, data())


class Asks(torch.optim.SGD):
    """Keeps what the closure tells it, and which gradients are left from the update before."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, lr=0.1)
        self.told: list[Tensor] = []

    def step(self, closure: Any = None) -> Any:
        assert all(p.grad is None for group in self.param_groups for p in group["params"])
        self.told.append(closure())
        return super().step()


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_optimizer_is_told_the_whole_loss(tmp_path: Path, accumulate: int) -> None:
    """Of both views and the penalty, over all micro-batches by their rows, without a graph."""
    ours, logger = task(optimizer=Asks, accumulate=accumulate), CsvLogger(tmp_path / "metrics.csv")
    trainer = fit(ours, data(50), tmp_path, logger=[logger], log_every_n_steps=1)
    told = trainer.optimizers[0].told
    steps = [row for row in read_metrics(logger.path) if "step/loss" in row]
    assert len(told) == len(steps) == 8 and not any(value.requires_grad for value in told)
    for value, row in zip(told, steps, strict=True):
        assert value.item() == pytest.approx(2 * float(row["step/loss"]) + 0.1 * float(row["step/penalty"]), rel=1e-5)


def test_running_means_weigh_samples() -> None:
    means = RunningMeans()
    means.add({"a": torch.tensor(1.0)}, 3)
    means.add({"a": torch.tensor(5.0)}, 1)
    assert means.compute() == {"a": 2.0}
    means.reset()
    assert means.compute() == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_told_by_their_name(value: float) -> None:
    ours = task()
    require_finite_weights(ours)
    with torch.no_grad():
        ours.model.head.bias[0] = value  # type: ignore[union-attr, index]
    with pytest.raises(TrainingError, match=r"model\.head\.bias is not finite at the end of training"):
        require_finite_weights(ours)


@pytest.mark.parametrize(("device", "update"), [("cpu", AT_ONCE), ("cuda", 1)])
def test_when_figures_are_read(device: str, update: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU some updates' together, without their images; on a GPU before CUDA graphs write over the logits."""
    model, run = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), task()
    run.trainer = Trainer(accelerator="cpu", logger=False)
    monkeypatch.setattr(type(run), "device", torch.device(device))
    monkeypatch.setattr(type(run), "global_step", 1)  # of 50
    read = []
    for _ in range(update):
        views, target = [torch.randn(2, 1, 2, 2)], torch.arange(2)
        batch, image = Batch(views, target, target), weakref.ref(views[0])
        loss = NoPenalty()(model, F.cross_entropy, views, target)
        loss.total.backward()
        run.record([(batch, loss)])
        del views, batch
        assert image() is None and loss.total.grad_fn is None and loss.logits[0].grad_fn is None
        read.append(run.means.weight)
    assert read == [0] * (update - 1) + [2 * update]
