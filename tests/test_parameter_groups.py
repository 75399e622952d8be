"""Frozen parameters, learning rates by group, and none of the decay for biases and norms."""

import copy
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from equality import assert_equal_rows, in_process
from pool import Pool
from runs import tiny_run, weights
from test_processes import EXACT, STRATEGIES
from test_resume_changes import rates
from test_task import data, fit, task
from timm.optim import Adan
from torch import Tensor, nn

from gvr_lightning import AGR
from gvr_lightning.errors import UserError
from gvr_lightning.methods.penalty import NoPenalty
from gvr_lightning.methods.sam import SAM
from gvr_lightning.models.split import SplitNetwork
from gvr_lightning.models.timm_network import timm_network
from gvr_lightning.optim import schedules
from gvr_lightning.optim.acprop import ACProp
from gvr_lightning.optim.schedules import Schedule
from gvr_lightning.recording.csv import read_metrics
from gvr_lightning.tasks.groups import ParameterGroups

SCALE = {"backbone.early": 0.1, "*.norm.*": 3.0}
BY_HAND = {"backbone.early": 0.1, "backbone.last_stage.norm": 3.0, "head": 1.0, "backbone.last_stage.linear": 1.0}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, momentum=0.9, weight_decay=0.3),
    "adam": partial(torch.optim.Adam, weight_decay=0.3),
    "adamw": partial(torch.optim.AdamW, weight_decay=0.3),
    "rmsprop": partial(torch.optim.RMSprop, weight_decay=0.3),
    "adan": partial(Adan, weight_decay=0.3),
    "acprop": partial(ACProp, weight_decay=0.3),
    "nadam": partial(torch.optim.NAdam, weight_decay=0.3),  # by _target_
}
WRAPS: dict[str, Callable[..., Any]] = {"plain": lambda base: base, "agr": AGR, "sam": partial(SAM, rho=0.0)}
RUN = ["optimizer=adamw", "lr=0.02", "optimizer.weight_decay=0.5", "parameters.no_decay=norm_bias"]
RUN += ["parameters.lr_scale={backbone.last_stage: 0.1, head: 5}", "parameters.freeze=backbone.early"]


def network(seed: int = 0) -> SplitNetwork:
    torch.manual_seed(seed)
    stage = nn.Sequential()
    stage.add_module("linear", nn.Linear(5, 6))
    stage.add_module("norm", nn.BatchNorm1d(6))
    early = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5))
    return SplitNetwork(early, stage, nn.Linear(6, 3)).double()


def scale_of(name: str) -> float:
    return next(scale for module, scale in BY_HAND.items() if name.startswith(module))


def stepped(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], grads: list[list[Tensor]]) -> None:
    """So many updates with gradients that are given."""
    for step in grads:

        def closure(step: list[Tensor] = step) -> float:
            for p, g in zip(params, step, strict=True):
                p.grad = g.clone()
            return 0.0

        optimizer.step(closure)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("wrap", WRAPS)
def test_every_group_moves_as_under_an_optimizer_of_its_own(name: str, wrap: str) -> None:
    ours, make = network(), OPTIMIZERS[name]
    theirs = copy.deepcopy(ours)
    generator = torch.Generator().manual_seed(1)
    shapes = [p.shape for p in ours.parameters()]
    grads = [[torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes] for _ in range(3)]
    groups = ParameterGroups(lr_scale=SCALE, no_decay="norm_bias")
    optimizer = WRAPS[wrap](groups.optimizer(partial(make, lr=0.01), ours))
    of_all = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in of_all} == {id(p) for p in ours.parameters()} and len(of_all) == len(shapes)
    stepped(optimizer, list(ours.parameters()), grads)
    for i, (parameter, p) in enumerate(theirs.named_parameters()):
        own = make([p], lr=0.01 * scale_of(parameter), **({} if p.ndim > 1 else {"weight_decay": 0.0}))
        stepped(WRAPS[wrap](own), [p], [[step[i]] for step in grads])
    for (parameter, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14, msg=parameter)


def test_agr_acts_by_tensor_whatever_the_groups_are() -> None:
    nets = [network(), network()]
    grads = [[torch.randn_like(p) for p in nets[0].parameters()]]
    alone = ParameterGroups().optimizer(partial(torch.optim.SGD, lr=0.5), nets[0])
    groups = ParameterGroups(lr_scale={"backbone": 1.0, "head": 1.0}).optimizer(
        partial(torch.optim.SGD, lr=0.5), nets[1]
    )
    assert [len(o.param_groups) for o in (alone, groups)] == [1, 2]
    for net, optimizer in zip(nets, (alone, groups), strict=True):
        stepped(AGR(optimizer), list(net.parameters()), grads)
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


def test_without_a_key_the_optimizer_gets_a_plain_list() -> None:
    given: list[Any] = []
    ParameterGroups().optimizer(lambda params: given.extend(params), network())  # type: ignore[arg-type, return-value]
    assert [type(p) for p in given] == [nn.Parameter] * 10


def test_an_optimizer_has_no_frozen_parameters() -> None:
    groups, net = ParameterGroups("backbone"), network()
    groups.frozen(net)
    optimizer = groups.optimizer(partial(torch.optim.SGD, lr=0.1), net)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(net.head.weight), id(net.head.bias)]


@pytest.mark.parametrize(
    "schedule",
    [
        partial(schedules.cosine, min_lr=0.01),
        partial(schedules.cosine, min_lr=0.01, interval="step"),
        schedules.cosine,
        schedules.onecycle,
        partial(schedules.warmup, warmup_steps=2, cosine=True),
        schedules.constant,
    ],
)
def test_schedules_keep_the_ratio_of_the_rates(schedule: Callable[..., Schedule]) -> None:
    make = partial(torch.optim.SGD, lr=0.2)
    alone, groups = (ParameterGroups(lr_scale=s).optimizer(make, network()) for s in (None, {"backbone": 0.25}))
    scheduled = [schedule(o, steps=6, epochs=6).scheduler for o in (alone, groups)]
    for _ in range(6):
        for optimizer, scheduler in zip((alone, groups), scheduled, strict=True):
            optimizer.step()
            scheduler.step()
        (lr,), (head, backbone) = ([g["lr"] for g in o.param_groups] for o in (alone, groups))
        assert head == pytest.approx(lr, rel=1e-12, abs=1e-17) and backbone == pytest.approx(
            lr / 4, rel=1e-12, abs=1e-17
        )


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"freeze": "bakbone"}, "parameters.freeze: the network has no parameters bakbone; did you mean backbone?"),
        ({"freeze": ["*"]}, "parameters.freeze: leaves nothing to train"),
        ({"freeze": ["head", "head.bias"]}, "parameters.freeze: "),
        (
            {"lr_scale": {"xyz": 2}},
            "parameters.lr_scale: the network has no parameters xyz; there is backbone, head, ...",
        ),
        ({"lr_scale": {"backbone.last_stage.nrm": 2}}, "did you mean backbone.last_stage.norm?"),
        (
            {"lr_scale": {"head": 2, "*.bias": 3}},
            "parameters.lr_scale: head and *.bias both mean head.bias: name it once",
        ),
        ({"freeze": "head", "lr_scale": {"head": 2}}, "parameters.lr_scale: all parameters head are frozen"),
    ],
)
def test_a_name_that_means_nothing_or_too_much_is_a_line(settings: dict[str, Any], says: str) -> None:
    if settings == {"freeze": ["head", "head.bias"]}:  # the same twice is no mistake
        assert len(ParameterGroups(**settings).frozen(network())) == 1
        return
    with pytest.raises(UserError) as caught:
        task(network(), penalty=NoPenalty(), groups=ParameterGroups(**settings))
    assert says in str(caught.value)


def test_what_an_optimizer_does_not_keep_by_group_is_a_line() -> None:
    for settings, says in (({"no_decay": "norm_bias"}, "weight_decay"), ({"lr_scale": {"head": 2}}, "lr")):
        with pytest.raises(UserError, match=f"parameters.{next(iter(settings))}: Bare keeps no {says} for each group"):
            ParameterGroups(**settings).optimizer(Bare, network())  # type: ignore[arg-type]


class Bare(torch.optim.SGD):
    """An optimizer that keeps nothing by group."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.param_groups.append({"params": list(param_group["params"])})


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")  # as the command line does
def test_a_frozen_backbone_is_in_evaluation_and_stays_bit_for_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    early = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten())
    stage = nn.Sequential(nn.Linear(144, 6), nn.BatchNorm1d(6))
    ours = task(SplitNetwork(early, stage, nn.Linear(6, 4)), groups=ParameterGroups("backbone.early"), wrap=AGR)
    before = copy.deepcopy(ours.model.state_dict())
    fit(ours, data(), tmp_path)
    changed = {name for name, value in ours.model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.rpartition(".")[0] for name in changed} == {"backbone.last_stage.0", "backbone.last_stage.1", "head"}
    ours.eval()
    ours.train()
    assert ours.model.training and not any(m.training for m in early.modules()) and stage[1].training


def test_a_run_goes_on_with_the_groups_and_a_new_lr_keeps_their_ratio(
    finished: Callable[..., Path], tmp_path: Path
) -> None:
    half, whole = finished(*RUN, "epochs=1", "scheduler=constant"), finished(*RUN, "epochs=2", "scheduler=constant")
    run = Path(shutil.copytree(half, tmp_path / "run"))
    tiny_run(run, *RUN, "epochs=2", "scheduler=constant", f"resume={run}")
    theirs = weights(whole)
    assert all(torch.equal(value, theirs[name]) for name, value in weights(run).items())
    assert_equal_rows(whole, run, rounding=0)
    told = tiny_run(run, *RUN, "epochs=4", "lr=0.1", f"resume={run}")["metrics"]  # a cosine that starts afresh
    assert not any(name.startswith("lr") for name in told), "rates are settings, no figures of the run"
    rows = [row for row in read_metrics(run / "metrics.csv") if "lr" in row]
    names = {"lr/backbone.last_stage": 0.1, "lr/head": 5.0}
    assert all(float(row["lr"]) == float(row["lr/backbone.last_stage"]) for row in rows)  # nothing has no name
    base = [float(row["lr/head"]) / names["lr/head"] for row in rows]
    assert base[1:] == pytest.approx([0.02, 0.1, 0.05], abs=1e-12) and rates(run)[2] == pytest.approx(0.01)


def test_groups_are_the_same_where_weights_are_divided(
    two: Pool, finished: Callable[..., Path], tmp_path: Path
) -> None:
    overrides = [*EXACT, *RUN, "regularizer=gvr_agr"]
    two(in_process, tmp_path, [*overrides, *STRATEGIES["fsdp"], "trainer.devices=2"])
    assert_equal_rows(finished(*overrides), tmp_path)


VIT = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2}
NAME = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    torch.manual_seed(5)
    return timm.create_model(NAME, num_classes=7, **VIT).state_dict()


def test_a_file_s_weights_are_those_of_the_network_but_for_the_classifier(
    pretrained: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(pretrained, tmp_path / "w.pth")
    torch.manual_seed(1)
    plain = timm_network((3, 8, 8), 4, NAME, options=VIT)
    torch.manual_seed(1)
    ours = timm_network((3, 8, 8), 4, NAME, options=VIT, weights=str(tmp_path / "w.pth"))
    values = {p.sum().item() for p in ours.backbone.parameters()}
    assert values == {p.sum().item() for name, p in pretrained.items() if not name.startswith("head")}
    assert torch.equal(ours.head.weight, plain.head.weight)  # no further random number was drawn


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: {k: v for k, v in w.items() if "qkv" not in k}, "it lacks blocks.0.attn.qkv.weight"),
        (lambda w: {k: v for k, v in w.items() if k != "norm.bias"}, "it lacks norm.bias$"),
        (lambda w: {**w, "cls_token": torch.zeros(1, 1, 9)}, "not the weights of 'vit_tiny_patch16_224': .*cls_token"),
        (lambda w: [3], "holds something else|holds no weights"),
        (lambda w: {"state_dict": print}, r"holds no weights that can be read \(\w+\)$"),
        (None, "there is no such file$"),
    ],
)
def test_a_file_that_is_not_the_network_s_is_a_line(
    change: Any, says: str, pretrained: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "w.pth"
    if change is not None:
        torch.save(change(dict(pretrained)), path)
    with pytest.raises(UserError, match=f"^model.weights={path}: .*(?:{says})"):
        timm_network((3, 8, 8), 4, NAME, options=VIT, weights=str(path))
