"""Nothing that comes from a file is executed: checkpoints, run folders, pipelines, data."""

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numbered import PLAIN
from omegaconf import OmegaConf
from runs import TINY_DDPM, tiny_run

from gvr_lightning.app import sample
from gvr_lightning.checkpoint import load_network
from gvr_lightning.config.folder import conf_folder
from gvr_lightning.config.resume import continue_run
from gvr_lightning.config.trust import own_targets
from gvr_lightning.data.cifar import Cifar10, Cifar100
from gvr_lightning.data.cifar_files import _DType
from gvr_lightning.diffusion.pipeline import load_pipeline, save_pipeline
from gvr_lightning.errors import UserError

UNSCORED = [*TINY_DDPM, "extractor=none"]
MKDIR = {"_target_": "os.mkdir", "path": "ran"}  # what a payload leaves


@pytest.fixture(autouse=True)
def nothing_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "ran").exists()


def tampered(source: Path, target: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A checkpoint with something else in it."""
    content = torch.load(source, weights_only=True)
    change(content)
    torch.save(content, target)
    return target


# --- checkpoints

HOSTILE = {
    "a setting that is called": lambda c: c["model"].update(width=MKDIR),
    "one within a list": lambda c: c["model"].update(width=[1, [MKDIR]]),
    "one within a mapping": lambda c: c["model"].update(width={"a": {"b": MKDIR}}),
    "another model": lambda c: c.update(model=MKDIR),
    "a model by another way": lambda c: c["model"].update(_target_="gvr_lightning.instantiate.make"),
    "the optimizer for a model": lambda c: c["model"].update(_target_="torch.optim.SGD"),
    "a reference": lambda c: c["model"].update(width="${oc.env:HOME}"),
    "a target that is put together": lambda c: c["model"].update(width="${oc.create:{_target_: os.mkdir, path: ran}}"),
    "Hydra's own": lambda c: c["model"].update(_partial_=True),
    "arguments by place": lambda c: c["model"].update(_args_=[[1]]),
    "a model that is none": lambda c: c.update(model=None),
    "a target that is none": lambda c: c["model"].update(_target_=3),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_checkpoint_has_nothing_called(how: str, finished: Callable[..., Path], tmp_path: Path) -> None:
    good = finished("regularizer=gvr") / "checkpoints" / "last.ckpt"
    assert load_network(good).kind == "classification"
    path = tampered(good, tmp_path / "evil.ckpt", lambda content: HOSTILE[how](content["config"]))
    with pytest.raises(UserError) as stop:
        load_network(path)
    assert str(path) in str(stop.value)


@pytest.mark.parametrize(
    "missing", ["config", "state_dict", "ViewsDataModule", "config.model", "config.task", "ViewsDataModule.mean"]
)
def test_a_checkpoint_that_lacks_something_is_one_line(
    missing: str, finished: Callable[..., Path], tmp_path: Path
) -> None:
    def change(content: dict[str, Any]) -> None:
        above, _, name = missing.rpartition(".")
        del (content[above] if above else content)[name]

    path = tampered(finished("regularizer=gvr") / "checkpoints" / "last.ckpt", tmp_path / "cut.ckpt", change)
    with pytest.raises(UserError, match="not one of this project's runs"):
        load_network(path)


def test_weights_of_another_network_are_one_line(finished: Callable[..., Path], tmp_path: Path) -> None:
    good = finished("regularizer=gvr") / "checkpoints" / "last.ckpt"
    path = tampered(good, tmp_path / "x.ckpt", lambda c: c["config"]["model"].update(width=16))
    with pytest.raises(UserError, match="its weights are not those of its model"):
        load_network(path)


def test_files_that_a_checkpoint_s_model_began_with_are_not_opened(tmp_path: Path, monkeypatch: Any) -> None:
    seen = {}

    def timm_network(image_shape: Any, num_classes: int, **settings: Any) -> torch.nn.Module:
        seen.update(settings)
        return torch.nn.Linear(1, 1)

    monkeypatch.setattr("gvr_lightning.models.timm_network.timm_network", timm_network)
    options = {"checkpoint_path": "evil.pth", "pretrained_cfg": {"file": "evil.pth"}, "img_size": 8}
    model = {"_target_": "gvr_lightning.models.timm_network.timm_network", "name": "x", "pretrained": True}
    content = {
        "config": {"model": {**model, "options": options}, "task": {}},
        "state_dict": {f"model.{n}": v for n, v in torch.nn.Linear(1, 1).state_dict().items()},
        "ViewsDataModule": {"image_shape": [1, 8, 8], "num_classes": 2, "mean": [0.0], "std": [1.0]},
    }
    torch.save(content, tmp_path / "a.ckpt")
    load_network(tmp_path / "a.ckpt")
    assert seen["pretrained"] is None
    assert seen["options"] == {"checkpoint_path": None, "pretrained_cfg": None, "img_size": 8}


def test_a_network_of_somebody_else_s_needs_the_user_s_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = ["model._target_=numbered.constant", "~model.width", "~model.groups"]
    tiny_run(tmp_path / "run", *PLAIN, *theirs, "epochs=1")
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with pytest.raises(UserError, match=r"model is numbered.constant, .* add trust=numbered.constant"):
        load_network(path)
    assert load_network(path, trust=["numbered.constant"]).network(torch.zeros(1, 1, 8, 8)).shape == (1, 4)
    scored = [*PLAIN, *TINY_DDPM, "extractor=classifier", f"extractor.checkpoint={path}", "epochs=1"]
    with pytest.raises(UserError, match=r"add trust=numbered\.constant"):
        tiny_run(tmp_path / "scored", *scored)
    drawn = [f"ckpt={path}", "n=1"]
    for further, words in ([], "add trust=numbered.constant"), (["trust=numbered.constant"], "a classification run"):
        monkeypatch.setattr("sys.argv", ["gvr-sample", *drawn, *further])
        with pytest.raises(SystemExit, match="2"):
            sample.main()
        assert words in capsys.readouterr().err
    summary = tiny_run(tmp_path / "trusted", *scored, "trust=numbered.constant", "generation.allow_few=true")
    assert summary["metrics"]["extractor"] == "classifier"


def test_the_noise_of_a_checkpoint_has_nothing_called(
    finished: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = finished(*UNSCORED) / "checkpoints" / "last.ckpt"
    capsys.readouterr()
    for change in (
        lambda c: c["config"]["task"].update(noise=MKDIR),
        lambda c: c["config"]["task"]["noise"].update(timesteps=MKDIR),
        lambda c: c["config"]["task"]["noise"].update(_target_="gvr_lightning.tasks.diffusion.DiffusionTask"),
    ):
        path = tampered(good, tmp_path / "evil.ckpt", change)
        monkeypatch.setattr("sys.argv", ["gvr-sample", f"ckpt={path}", "n=1", "steps=1", "out=x.png"])
        with pytest.raises(SystemExit, match="2"):
            sample.main()
        said = capsys.readouterr().err
        assert "task.noise" in said and said.count("\n") == 1


# --- run folders


def folder_of(tmp_path: Path, run: Path, overrides: Any) -> Path:
    """A copy of a run that says it was started so."""
    folder = Path(shutil.copytree(run, tmp_path / "run", dirs_exist_ok=True))
    (folder / ".hydra").mkdir(exist_ok=True)
    text = overrides if isinstance(overrides, str) else OmegaConf.to_yaml(OmegaConf.create(overrides))
    (folder / ".hydra" / "overrides.yaml").write_text(text)
    return folder


STRANGE = [
    "--experimental-rerun=evil.pickle",
    "-cd=/tmp",
    "+hydra.callbacks.x={_target_: os.mkdir, path: ran}",
    "hydra.searchpath=[file:///tmp]",
    "hydra/launcher=joblib",
    "hydra={run: {dir: x}}",
    "+hydra@x=y",
    "data.source._target_=os.mkdir",
    "+data.source={_target_: os.mkdir, path: ran}",
    "data.transform={_target_: os.mkdir, path: ran}",
    "data.transform={_target_: torchvision.transforms.v2.Compose, transforms: [{_target_: os.mkdir, path: ran}]}",
    "++model.width={a: [{_target_: os.mkdir}]}",
    "model.width=${oc.create:{_target_: os.mkdir, path: ran}}",
    "model.width=${oc.create:{_target_: os.mkdir, path: '${hydra:job.num}'}}",
    "model.width=${oc.decode:'{_target_: os.mkdir, path: ran}'}",
    "model._target_=${oc.env:HOME}",
    "optimizer._target_=torch.optim.lr_scheduler.sys.exit",
    "no setting",
]


@pytest.mark.parametrize("text", STRANGE)
def test_from_a_folder_come_settings_of_this_project_alone(
    text: str, finished: Callable[..., Path], tmp_path: Path
) -> None:
    folder = folder_of(tmp_path, finished("regularizer=gvr"), ["name=test", text])
    with pytest.raises(UserError) as stop:
        continue_run([f"resume={folder}"])
    assert "overrides.yaml" in str(stop.value) and "\n" not in str(stop.value)


def test_a_run_s_own_references_and_known_classes_are_no_strangers(tmp_path: Path) -> None:
    from test_cli import started

    known = ["name=${hydra:runtime.choices.data}-a", "lr=${alpha}", "optimizer._target_=torch.optim.ASGD"]
    known += ["data.transform={_target_: torchvision.transforms.v2.RandomCrop, size: 8}", "~optimizer.momentum"]
    known += ["~optimizer.nesterov"]
    started(tmp_path / "run", ["name=a", *known[1:]])
    folder_of(tmp_path / "x", tmp_path / "run", known)
    assert continue_run([f"resume={tmp_path / 'x' / 'run'}"])[:-2] == known


def test_a_target_of_a_run_is_trusted_by_the_command_line_only(tmp_path: Path) -> None:
    from test_cli import started

    theirs = ["data.source._target_=numbered.Numbered", "name=a"]
    started(tmp_path / "run", [*theirs, "trust=numbered.Numbered"])
    resume = f"resume={tmp_path / 'run'}"
    with pytest.raises(UserError, match=r"numbered\.Numbered, .* add trust=numbered\.Numbered"):
        continue_run([resume])
    for word in ("trust=numbered.Numbered", "trust=[os.mkdir,numbered.Numbered]", theirs[0]):
        assert continue_run([resume, word])[:-2] == [*theirs, word]
    with pytest.raises(UserError, match=r"add trust=numbered\.Numbered"):
        continue_run([resume, "trust=numbered.Other"])


def test_files_that_timm_would_open_are_trusted_by_the_command_line_only(tmp_path: Path) -> None:
    from test_cli import started

    options = ["model=timm", "model.name=resnet18", "model.options={checkpoint_path: evil.pth}", "name=a"]
    started(tmp_path / "run", options)
    with pytest.raises(UserError, match=r"model.options.checkpoint_path has timm open a file; .* trust=evil.pth"):
        continue_run([f"resume={tmp_path / 'run'}"])
    assert continue_run([f"resume={tmp_path / 'run'}", "trust=evil.pth"])[:-3] == options


def test_targets_in_folders_that_the_user_adds_are_his_word(tmp_path: Path) -> None:
    from test_cli import started

    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "own.yaml").write_text("_target_: numbered.constant\n")
    started(tmp_path / "run", ["name=a"])
    folder = folder_of(tmp_path / "x", tmp_path / "run", ["name=a", "model=own"])
    with pytest.raises(UserError, match="there is no such option"):
        continue_run([f"resume={folder}"])
    for given in (["--config-dir", str(tmp_path / "mine")], [f"hydra.searchpath=['file://{tmp_path / 'mine'}']"]):
        assert continue_run([f"resume={folder}", *given])[:2] == ["name=a", "model=own"]


def test_own_targets_are_those_of_the_configuration_s_files() -> None:
    named = own_targets()
    assert {"gvr_lightning.models.resnet.resnet", "gvr_lightning.diffusion.noise.Noise"} <= named
    assert not any("Outcome" in name for name in named)  # Hydra's callback
    assert own_targets("model") < named and all(".models." in name for name in own_targets("model"))
    for file in conf_folder().glob("*/*.yaml"):
        text = file.read_text()
        assert ("_target_:" in text) == any(f"{name}\n" in text for name in own_targets(file.parent.name)), file


# --- pipelines


def test_a_pipeline_s_folder_has_nothing_imported(finished: Callable[..., Path], tmp_path: Path) -> None:
    from gvr_lightning.diffusion.noise import Noise

    network = load_network(finished(*UNSCORED) / "checkpoints" / "last.ckpt").network
    folder = tmp_path / "pipeline"
    save_pipeline(network, Noise(), folder)  # type: ignore[arg-type]
    load_pipeline(folder)
    (folder / "unet" / "evil.py").write_text("import os; os.mkdir('ran')")
    index, config = (json.loads((folder / name).read_text()) for name in ("model_index.json", "unet/config.json"))
    parts = [{"unet": ["evil", "UNet2DModel"]}, {"scheduler": ["evil", "DDPMScheduler"]}, {"unet": None}]
    parts += [{"scheduler": ["diffusers", "DiffusionPipeline"]}, {"scheduler": ["diffusers", "NoScheduler"]}]
    for part in parts:
        (folder / "model_index.json").write_text(json.dumps({**index, **part}))
        with pytest.raises(UserError, match="holds no unconditional diffusers pipeline"):
            load_pipeline(folder)
    (folder / "model_index.json").write_text(json.dumps(index))
    for further in (
        {"auto_map": {"x": "evil.X"}},
        {"quantization_config": {"quant_method": "x"}},
        {"_class_name": "x"},
    ):
        (folder / "unet" / "config.json").write_text(json.dumps({**config, **further}))
        with pytest.raises(UserError, match=r"config\.json"):
            load_pipeline(folder)


def test_pickled_weights_of_a_pipeline_are_plain_data(finished: Callable[..., Path], tmp_path: Path) -> None:
    from gvr_lightning.diffusion.noise import Noise

    network = load_network(finished(*UNSCORED) / "checkpoints" / "last.ckpt").network
    save_pipeline(network, Noise(), tmp_path / "p")  # type: ignore[arg-type]
    (tmp_path / "p" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(Evil(), tmp_path / "p" / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match="holds no unconditional diffusers pipeline"):
        load_pipeline(tmp_path / "p")


# --- CIFAR's pickles


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


class ForgedType:
    def __reduce__(self) -> Any:
        return np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0)


class Forged:
    """An array whose bytes numpy would take for pointers."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def __reduce__(self) -> Any:
        return np.empty(0).__reduce__()[0], (np.ndarray, (0,), b"b"), self.state  # type: ignore[index]


FORGED = {
    "a call": {"data": Evil(), "labels": [0]},
    "objects": {"data": Forged((1, (1, 3072), ForgedType(), False, b"A" * 8 * 3072)), "labels": [0]},
    "labels of objects": {
        "data": np.zeros((2, 3072), np.uint8),
        "labels": [Forged((1, (1,), ForgedType(), False, b"A" * 8))] * 2,
    },
    "a shape beyond its bytes": {"data": Forged((1, (9, 3072), np.dtype("u1"), False, b"A" * 3072)), "labels": [0]},
    "a negative shape": {"data": Forged((1, (-5, 3072), np.dtype("u1"), False, b"A" * 3072)), "labels": [0]},
    "no bytes": {"data": Forged((1, (1, 3072), np.dtype("u1"), False, [1] * 3072)), "labels": [0]},
    "no state": {"data": Forged((1, 2)), "labels": [0]},
    "structures": {"data": np.zeros((1, 3072), [("a", "u1")]), "labels": [0]},
    "text": {"data": np.full((1, 3072), "a"), "labels": [0]},
    "times": {"data": np.zeros((1, 3072), "M8[s]"), "labels": [0]},
    "a number": {"data": np.uint8(3), "labels": [0]},
    "floating-point labels": {"data": np.zeros((1, 3072), np.uint8), "labels": np.zeros(1)},
    "true and false": {"data": np.zeros((1, 3072), np.uint8), "labels": [True]},
    "a huge label": {"data": np.zeros((1, 3072), np.uint8), "labels": [2**80]},
    "labels of a text": {"data": np.zeros((1, 3072), np.uint8), "labels": "0"},
    "a list within": {"data": np.zeros((1, 3072), np.uint8), "labels": [[0]]},
    "an array of no axes": {"data": np.array(3, np.uint8), "labels": [0]},
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("how", FORGED)
def test_a_forged_cifar_file_is_one_line(how: str, protocol: int) -> None:
    raw = pickle.dumps({k.encode(): v for k, v in FORGED[how].items()}, protocol)
    with pytest.raises(UserError, match="data_batch_1") as stop:
        Cifar10(".")._batch(Path("data_batch_1"), raw)
    assert "\n" not in str(stop.value)


OPCODES = {
    "a memo beyond any memory": b"\x80\x02}r\xff\xff\xff\xff.",
    "more bytes than there are": b"\x80\x05\x96" + b"\xff" * 6 + b"\x00\x00.",
    "more text than there is": b"\x80\x04\x8d" + b"\xff" * 6 + b"\x00\x00.",
    "a state for a class": b"\x80\x02cnumpy\nndarray\n}U\x01aK\x01sb.",
    "an instance of a class": b"\x80\x02(cnumpy\nndarray\no.",
    "an extension": b"\x80\x02\x82\x01.",
    "a persistent object": b"\x80\x02K\x01Q.",
    "nothing": b"",
}


@pytest.mark.parametrize("how", OPCODES)
def test_a_forged_opcode_is_one_line(how: str) -> None:
    with pytest.raises(UserError, match="data_batch_1"):
        Cifar10(".")._batch(Path("data_batch_1"), OPCODES[how])


def test_ten_thousand_mutated_files_are_an_error_or_arrays_as_they_should_be() -> None:
    """Bytes changed, cut out, put in twice and exchanged; whatever comes back is what the project is promised."""
    choose = random.Random(0)
    kinds, read = [Cifar10("."), Cifar100(".")], 0
    content = {
        b"data": np.zeros((1, 3072), np.uint8),
        b"labels": [3],
        b"fine_labels": np.array([3]),
        b"filenames": ["a"],
    }
    files = [pickle.dumps(content, protocol) for protocol in range(6)]
    told = {raw: [i for i, byte in enumerate(raw) if byte] for raw in files}  # an image's zeros say nothing
    for _ in range(10_000):
        raw = bytearray(chosen := choose.choice(files))
        places = told[chosen]
        for _ in range(choose.randint(1, 4)):
            at, to = choose.choice(places), choose.randrange(len(raw) or 1)
            how = choose.randrange(4)
            if how == 0:
                raw[min(at, len(raw) - 1)] = choose.randrange(256)
            elif how == 1:
                del raw[at : at + choose.randint(1, 9)]
            elif how == 2:
                raw[to:to] = raw[at : at + choose.randint(1, 30)]
            else:
                raw[at : at + 2], raw[to : to + 2] = raw[to : to + 2], raw[at : at + 2]
            if not raw:
                break
        for kind in kinds:
            try:
                images, labels = kind._batch(Path("file"), bytes(raw))
            except UserError:
                continue
            read += 1
            assert images.dtype == np.uint8 and images.shape == (len(labels), 3072) and labels.dtype == np.int64
            assert len(labels) and labels.min() >= 0 and labels.max() < kind.num_classes
    assert 200 < read < 15_000


@pytest.mark.parametrize("name", ["f8", "O8", "M8", "V8"])
def test_an_array_of_a_cifar_file_is_of_plain_integers(name: str) -> None:
    assert _DType("u1").known() == np.uint8
    with pytest.raises(ValueError, match=f"an array of '{name}'"):
        _DType(name).known()
