"""gvr-export and gvr-predict: the weights by the names of the plain network, and the run's own predictions again."""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from onnx.reference import ReferenceEvaluator
from PIL import Image
from runs import tiny_run

from gvr_lightning.app import export, predict
from gvr_lightning.app.write_model import export_model, plain_state
from gvr_lightning.checkpoint import load_network
from gvr_lightning.config.trained import EXPORT, PREDICT, export_help, predict_help
from gvr_lightning.data.digits import Digits
from gvr_lightning.data.image_folder import ImageFolder
from gvr_lightning.models.small_cnn import small_cnn
from gvr_lightning.models.timm_network import timm_network
from gvr_lightning.recording.confusion import read_cells

EARLIER = Path(__file__).parent / "earlier"
Finished = Callable[..., Path]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A command's line on standard error, after ``error: `` for a mistake; the rest of it is looked at there."""

    def run(command: Any, *arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["gvr", *map(str, arguments)])
        capsys.readouterr()
        try:
            command.main()
        except SystemExit as ended:
            assert ended.code == 2
            error = capsys.readouterr().err
            assert error.splitlines()[-1].startswith("error: ") and "Traceback" not in error
            return error.splitlines()[-1]
        return capsys.readouterr().err

    return run


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test digits as files, in folders by class of two levels."""
    folder, test = tmp_path_factory.mktemp("digits"), Digits()().test
    for i, (image, target) in enumerate(zip(test.images, test.targets, strict=True)):
        path = folder / "some" / f"{target}" / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(path)
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def counted(rows: list[dict[str, str]]) -> Counter[tuple[str, str]]:
    """How many images of which folder are which class."""
    return Counter((Path(row["path"]).parent.name, row["class"]) for row in rows)


def confused(run: Path) -> dict[tuple[str, str], int]:
    """The same as the run's own test has it."""
    (_, *classes), *rows = read_cells(run / "confusion.csv")
    cells = {(true, said): int(n) for true, *counts in rows for said, n in zip(classes, counts, strict=True)}
    return {pair: n for pair, n in cells.items() if n}


# --- gvr-export


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_mambaout"])
def test_the_weights_of_a_timm_network_have_timm_s_names(name: str, tmp_path: Path) -> None:
    """Networks that are cut in every way; their BatchNorm's statistics are not those of the start."""
    torch.manual_seed(0)
    ours, images = timm_network((3, 32, 32), 5, name, options={"img_size": 32} if "vit" in name else None), 2.0
    ours(images * torch.randn(4, 3, 32, 32))
    torch.save(plain_state(ours), tmp_path / "model.pt")
    plain = timm.create_model(name, num_classes=5, **({"img_size": 32} if "vit" in name else {})).eval()
    plain.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), ours.eval()(x))


def test_an_exported_run_is_made_again_by_what_stands_beside_it(finished: Finished, typed: Any, tmp_path: Path) -> None:
    run = finished("regularizer=gvr")
    assert typed(export, f"run={run}", f"out={tmp_path / 'new' / 'm.pt'}") == ""
    about = json.loads((tmp_path / "new" / "m.pt.json").read_text())
    call = about["network"].replace("gvr_lightning.models.small_cnn.", "")
    network = eval(call, {"small_cnn": small_cnn}).eval()
    network.load_state_dict(torch.load(tmp_path / "new" / "m.pt", weights_only=True))
    digits = Digits()().test
    pixels = digits.images.float() / 255
    entering = (pixels - about["mean"][0]) / about["std"][0]
    with torch.no_grad():
        right = (network(entering).argmax(1) == digits.targets).float().mean()
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    assert right.item() == pytest.approx(metrics["test/acc"]) and about["classes"] == list("0123456789")
    assert (about["epoch"], about["image_shape"]) == (2, [1, 8, 8])
    data = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["ViewsDataModule"]
    assert about["mean"] == pytest.approx(data["mean"]) and about["std"] == pytest.approx(data["std"])
    assert about["mean"] != pytest.approx(about["std"])


def test_the_call_of_a_timm_network_names_its_options(tmp_path: Path) -> None:
    model = {"_target_": "gvr_lightning.models.timm_network.timm_network", "name": "test_vit", "pretrained": True}
    model["options"] = {"img_size": 8, "patch_size": 4, "checkpoint_path": "evil.pth"}
    network = timm_network((1, 8, 8), 3, "test_vit", options={"img_size": 8, "patch_size": 4})
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    data = {"image_shape": [1, 8, 8], "num_classes": 3, "mean": [0.5], "std": [1.0]}
    torch.save(
        {"config": {"model": model, "task": {}}, "state_dict": state, "ViewsDataModule": data}, tmp_path / "a.ckpt"
    )
    export_model(str(tmp_path / "a.ckpt"), str(tmp_path / "a.pt"))
    call = json.loads((tmp_path / "a.pt.json").read_text())["network"]
    assert call == "timm.create_model('test_vit', num_classes=3, in_chans=1, img_size=8, patch_size=4)"
    eval(call).load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True))


def test_an_onnx_file_gives_the_same_logits_for_any_number_of_images(finished: Finished, tmp_path: Path) -> None:
    path = finished("regularizer=gvr") / "checkpoints" / "last.ckpt"
    export_model(str(path), str(tmp_path / "m.onnx"))
    x = torch.randn(3, 1, 8, 8)
    (logits,) = ReferenceEvaluator(str(tmp_path / "m.onnx")).run(None, {"images": x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), load_network(path).network(x), rtol=1e-4, atol=1e-5)


def test_without_onnx_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch, typed: Any) -> None:
    monkeypatch.setattr("gvr_lightning.app.write_model.find_spec", lambda name: None)
    assert typed(export, "run=x", "out=m.onnx").endswith("needs onnx and onnxscript: pip install onnx onnxscript")


# --- gvr-predict


def test_the_predictions_are_the_run_s_own(finished: Finished, digits: Path, typed: Any, tmp_path: Path) -> None:
    """Over batches that are not all full; classes in order, probabilities by another way."""
    run, out = finished("regularizer=gvr"), tmp_path / "p.csv"
    said = typed(predict, f"run={run}", f"images={digits}", f"out={out}", "top=3", "batch_size=47")
    assert said == "predicting 360 images\n"
    rows = table(out)
    assert [row["path"] for row in rows] == sorted(str(p.relative_to(digits)) for p in digits.rglob("*.png"))
    assert counted(rows) == confused(run)
    loaded, test = load_network(run / "checkpoints" / "last.ckpt"), Digits()().test
    numbers = [int(Path(row["path"]).stem) for row in rows]
    with torch.no_grad():
        p = loaded.network((test.images[numbers].float() / 255 - loaded.mean) / loaded.std).softmax(1)
    for place, end in enumerate(("", "_2", "_3")):
        found = torch.tensor([float(row[f"probability{end}"]) for row in rows])
        torch.testing.assert_close(found, p.sort(1, descending=True).values[:, place], rtol=1e-4, atol=1e-6)
        of_class = p[torch.arange(360), torch.tensor([int(row[f"class{end}"]) for row in rows])]
        torch.testing.assert_close(found, of_class, rtol=1e-4, atol=1e-6)


def test_photos_are_resized_and_transformed_as_those_of_the_test(typed: Any, tmp_path: Path) -> None:
    """Of several sizes, to one that is no square; one is broken; the run's own transform mirrors its test images."""
    root, generator = tmp_path / "set", torch.Generator().manual_seed(0)
    for part, n in (("train", 6), ("test", 5)):
        for c, name in enumerate(("a", "=b")):
            for i in range(n):
                shape = (12 + i, 10 + c, 3)
                pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
                (root / part / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.numpy()).save(root / part / name / f"{i}.png")
    (root / "train" / "a" / "broken.png").touch()
    mirror = "data.eval_transform={_target_: torchvision.transforms.v2.RandomHorizontalFlip, p: 1}"
    folder = ["data=image_folder", f"data.root={root}", "data.image_size=[8,6]", f"data.cache_dir={tmp_path / 'cache'}"]
    folder += ["data.skip_broken=true", "data.val_fraction=0", "data.augmentation.cutout=0"]
    summary = tiny_run(tmp_path / "run", *folder, mirror, "batch_size=6", "lr=0.3")
    assert summary["left_out"] == ["train/a/broken.png"]
    out = tmp_path / "p.csv"
    typed(predict, f"run={tmp_path / 'run'}", f"images={root / 'test'}", f"out={out}")
    rows = table(out)
    assert rows[0]["path"] == "'=b/0.png" and {row["class"] for row in rows} <= {"a", "'=b"}
    loaded = load_network(tmp_path / "run" / "checkpoints" / "last.ckpt")
    images = ImageFolder(root, [8, 6], cache_dir=str(tmp_path / "cache"), skip_broken=True)().test.images.flip(3)
    with torch.no_grad():
        p = loaded.network((images.float() / 255 - loaded.mean.view(3, 1, 1)) / loaded.std.view(3, 1, 1)).softmax(1)
    assert [float(row["probability"]) for row in rows] == pytest.approx(p.max(1).values.tolist(), rel=1e-5)


def test_broken_images_are_named_or_left_out(finished: Finished, digits: Path, typed: Any, tmp_path: Path) -> None:
    run, images, out = finished("regularizer=gvr"), tmp_path / "images", tmp_path / "p.csv"
    images.mkdir()
    for i, path in enumerate(sorted(digits.rglob("*.png"))[:6]):
        (images / f"{i}.png").write_bytes(path.read_bytes() if i % 2 else b"no image")
    (images / "notes.txt").touch()
    line = typed(predict, f"run={run}", f"images={images}", f"out={out}", "batch_size=2")
    assert f"{images / '0.png'} cannot be decoded" in line and not out.exists()
    assert f"nor can 2 other images ({images / '2.png'}, {images / '4.png'})" in line and "skip_broken=true" in line
    said = typed(predict, f"run={run}", f"images={images}", f"out={out}", "batch_size=2", "skip_broken=true")
    assert "3 of 6 images are left out" in said and "left out: 1 .txt" in said
    assert [row["path"] for row in table(out)] == ["1.png", "3.png", "5.png"]
    for path in images.glob("*.png"):
        path.write_bytes(b"")
    assert "nor can 5 other images" in typed(
        predict, f"run={run}", f"images={images}", f"out={out}", "skip_broken=true"
    )


# --- mistakes


def small(epoch: int = 0, **config: Any) -> dict[str, Any]:
    """A checkpoint of few weights."""
    model = {"_target_": "gvr_lightning.models.small_cnn.small_cnn", "width": 4, "groups": 1}
    state = {f"model.{n}": v for n, v in small_cnn((1, 8, 8), 2, 4, 1).state_dict().items()}
    data = {"image_shape": [1, 8, 8], "num_classes": 2, "mean": [0.5], "std": [1.0]}
    settings = {"model": model, "task": {}, **config}
    return {"config": settings, "state_dict": state, "ViewsDataModule": data, "epoch": epoch}


def test_the_one_that_the_run_tested_is_taken(tmp_path: Path) -> None:
    """best.ckpt of the first epoch, last.ckpt of the second."""
    for tested in ("best", "last"):
        folder = tmp_path / tested / "checkpoints"
        folder.mkdir(parents=True)
        for epoch, name in enumerate(("best", "last")):
            torch.save(small(epoch, test_on=tested), folder / f"{name}.ckpt")
    for tested, which, epoch in (("best", None, 1), ("last", None, 2), ("best", "last", 2), ("last", "best", 1)):
        out = export_model(str(tmp_path / tested), str(tmp_path / "m.pt"), which)
        assert json.loads((tmp_path / f"{out.name}.json").read_text())["epoch"] == epoch


@pytest.mark.parametrize(
    ("command", "settings", "words"),
    [
        (export, ["out=x.pt"], "run is missing: add run=<a run's folder, or a .ckpt file>"),
        (export, ["rum=x"], "rum=x: there is no such setting; did you mean run?"),
        (export, ["run={run}", "out=x.pkl"], "out=x.pkl: the file's name ends in .pt or .onnx"),
        (export, ["run={run}", "which=first"], "which=first: must be one of last, best or null"),
        (export, ["run=/nowhere"], "there is no checkpoint /nowhere"),
        (export, ["run={run}/checkpoints/last.ckpt", "which=best"], "which=best: chooses within a run's folder"),
        (export, ["run={empty}"], "there is no checkpoints/last.ckpt in it"),
        (predict, ["run={run}"], "images is missing: add images=<a folder>"),
        (predict, ["run={run}", "images=/nowhere"], "images=/nowhere: there is no folder"),
        (predict, ["run={run}", "images={empty}"], "there is no image in it"),
        (predict, ["run={run}", "images={run}/config.yaml"], "is a file: give its folder"),
        (predict, ["run={run}", "images={digits}", "out=x.txt"], "out=x.txt: a table's name ends in .csv"),
        (predict, ["run={run}", "images={digits}", "top=11"], "top=11: the run has 10 classes"),
        (predict, ["run={run}", "images={digits}", "top=0"], "top=0: must be a whole number >= 1"),
        (predict, ["run={run}", "images={digits}", "device=abc"], "device=abc: "),
        (predict, ["run={run}", "images={digits}", "out={run}/config.yaml/x.csv"], "cannot read or write: "),
    ],
)
def test_a_mistake_is_one_line(
    command: Any, settings: list[str], words: str, finished: Finished, digits: Path, typed: Any, tmp_path: Path
) -> None:
    places = {"run": finished("regularizer=gvr"), "digits": digits, "empty": tmp_path}
    assert words in typed(command, *(setting.format(**places) for setting in settings))


def test_a_diffusion_run_has_no_classes(typed: Any, tmp_path: Path) -> None:
    target = "gvr_lightning.tasks.diffusion.DiffusionTask"
    torch.save(small(task={"_target_": target}), tmp_path / "a.ckpt")
    assert "the checkpoint of a ddpm run, which has no classes" in typed(export, f"run={tmp_path / 'a.ckpt'}")


def test_a_run_of_an_earlier_version_predicts(digits: Path, typed: Any, tmp_path: Path) -> None:
    assert typed(predict, f"run={EARLIER / 'classification'}", f"images={digits}", f"out={tmp_path / 'p.csv'}")
    assert len(table(tmp_path / "p.csv")) == 360


EVIL = {"_target_": "os.mkdir", "path": "ran"}


@pytest.mark.parametrize(
    "transform",
    [EVIL, {"_target_": "torchvision.transforms.v2.Compose", "transforms": [EVIL]}, "${oc.env:HOME}", {"a": 1}],
)
def test_a_transform_that_a_checkpoint_names_is_torchvision_s_or_trusted(
    transform: Any, finished: Finished, digits: Path, typed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = torch.load(finished("regularizer=gvr") / "checkpoints" / "last.ckpt", weights_only=True)
    content["config"]["data"]["eval_transform"] = transform
    torch.save(content, tmp_path / "evil.ckpt")
    line = typed(predict, "run=evil.ckpt", f"images={digits}")
    assert "evil.ckpt: its data.eval_transform" in line and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("page", "settings"), [(export_help, EXPORT), (predict_help, PREDICT)])
def test_the_help_names_every_setting(page: Callable[[], str], settings: dict[str, Any]) -> None:
    _, rows = page().split("Settings and their defaults\n")
    assert re.findall(r"^  (\w+)=", rows, re.MULTILINE) == list(settings)
