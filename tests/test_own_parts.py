"""Folders of one's own options, and what a run is called that has parts of one's own."""

from pathlib import Path

import pytest
from test_cli import main

from gvr_lightning.config.flags import separate
from gvr_lightning.config.folder import group_options
from gvr_lightning.config.own_parts import own_parts
from gvr_lightning.config.searchpath import own_folders
from gvr_lightning.config.sweep import expand
from gvr_lightning.errors import UserError


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, and a package, with a sweep."""
    for base in ("mine", "package/conf"):
        (tmp_path / base / "sweep").mkdir(parents=True)
        text = "# @package _global_\nhydra: {sweeper: {params: {seed: '3,4', lr: 0.1}}}\n"
        (tmp_path / base / "sweep" / "some.yaml").write_text(text)
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "mine" / "sweep" / "none_at_all.yaml").write_text("lr: 0.1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_folders_are_found_by_path_and_by_package(mine: Path) -> None:
    given = {
        "hydra.searchpath=[file://mine]": [mine / "mine"],
        f"+hydra.searchpath=['file://{mine / 'mine'}',mine]": [mine / "mine"] * 2,
        "hydra.searchpath=[pkg://package.conf]": [mine / "package" / "conf"],
        "hydra.searchpath=['${oc.env:HOME}/conf']": [],  # Hydra's to resolve
        "seed=1": [],
    }
    for text, folders in given.items():
        assert own_folders([text]) == folders, text
    assert group_options([mine / "mine"])["sweep"] == sorted([*group_options()["sweep"], "some", "none_at_all"])


WRONG = {
    "[file:///nowhere]": "there is no folder /nowhere",
    "[file://mine,nowhere]": "there is no folder ",
    "[pkg://nowhere.conf]": "there is no package nowhere.conf with a folder",
    "[pkg://package.nowhere]": "there is no package package.nowhere with a folder",
    "[ftp://mine]": "ftp:// is not known; folders are given as file://<folder> or pkg://<package>",
    "file://mine": "a list is needed: hydra.searchpath=[file://mine]",
}


@pytest.mark.parametrize("path", WRONG)
def test_a_wrong_search_path_is_one_line(path: str, mine: Path) -> None:
    with pytest.raises(UserError) as raised:
        separate(["seed=1", f"hydra.searchpath={path}"])
    assert str(raised.value).startswith(f"hydra.searchpath={path}: {WRONG[path]}") and "\n" not in str(raised.value)


def test_a_sweep_of_one_s_own(mine: Path) -> None:
    search = "hydra.searchpath=[file://mine]"
    assert expand(["+sweep=some", search, "lr=0.2"]) == ["-m", search, "lr=0.2", "seed=3,4"]
    assert expand(["+sweep=some", "seed=1"], config_dir="mine") == ["-m", "seed=1", "lr=0.1"]
    for line, said in ((["+sweep=some"], "there is no such sweep"), (["+sweep=none_at_all", search], "has no hydra.")):
        with pytest.raises(UserError, match=said):
            expand(line)


@pytest.mark.parametrize(
    ("overrides", "choices", "name"),
    [
        (["seed=1", "lr=0.1"], {"data": "digits", "model": "resnet20"}, ""),
        (["regularizer.penalty._target_=cosine.Cosine"], {}, "-Cosine"),
        (["data.source._target_='stripes.Stripes'", "+model._target_=a.b.net"], {}, "-Stripes-net"),
        (["regularizer.wrap={_target_: centralized.Centralized, _partial_: true}"], {}, "-Centralized"),
        (["data.transform={'_target_':v2.Crop,size:3}", "data.eval_transform={_target_: v2.Crop}"], {}, "-Crop"),
        ([], {"data": "stripes", "model": "mlp", "regularizer": "mine", "experiment": None}, "-mlp"),
        (["experiment=mine"], {"experiment": "mine", "hydra/launcher": "basic"}, "-mine"),
    ],
)
def test_the_default_name_says_what_is_one_s_own(overrides: list[str], choices: dict[str, str], name: str) -> None:
    assert own_parts(overrides, choices) == name


def test_a_run_with_own_parts_has_a_folder_of_its_name(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [
        "epochs=1",
        "data.max_train=40",
        "optimizer=adam",
        "optimizer._target_=torch.optim.NAdam",
        "model.width=8",
    ]
    assert main(monkeypatch, mine, *settings) == 0
    assert [path.name for path in (mine / "outputs").iterdir()] == ["digits-none-NAdam"]
