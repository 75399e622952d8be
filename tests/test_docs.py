"""The documentation: what it shows runs, what it names is there, and the site is built."""

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from composed import composed_once  # noqa: F401 (a fixture)
from configured import configured
from equality import assert_equal_rows, in_process
from hydra import compose, initialize_config_dir
from pool import Pool
from prose import blocks, check_command, commands, links, run_python
from runs import TINY
from torch import nn
from torch.nn.utils import parameters_to_vector

from gvr_lightning.app.run import run
from gvr_lightning.config.check import check
from gvr_lightning.config.folder import conf_folder
from gvr_lightning.config.overrides import choices, parse
from gvr_lightning.config.sweep import expand
from gvr_lightning.errors import UserError
from gvr_lightning.models.small_cnn import small_cnn

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "pages"
TEXTS = {str(path.relative_to(PAGES)): path.read_text() for path in sorted(PAGES.rglob("*.md"))}
EXPERIMENTS = {str(path.relative_to(ROOT)): path.read_text() for path in sorted(ROOT.glob("experiments/*/README.md"))}
SHOWN = [*TEXTS.values(), *EXPERIMENTS.values(), (ROOT / "README.md").read_text()]
COMMANDS = {shlex.join(words): words for text in SHOWN for words in commands(text)}
NO_RUN = re.compile(r"^(gvr-train|train\.py|hydra\.|-)")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files that the pages on extending and the tutorial show, where Python finds them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for language in ("python", "yaml"):
        for title, code in [*blocks(TEXTS["extending.md"], language), *blocks(TEXTS["tutorial.md"], language)]:
            (tmp_path / title).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / title).write_text(code)
    yield tmp_path
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


ELSEWHERE = ("hugging-face.md", "tutorial.md")  # what tests of their own run


@pytest.mark.parametrize("page", [p for p, text in TEXTS.items() if blocks(text, "python") and p not in ELSEWHERE])
def test_python_runs(page: str, tmp_path: Path) -> None:
    assert run_python(TEXTS[page], tmp_path)


def test_what_extends_the_project_computes_what_it_says(tmp_path: Path) -> None:
    shown: Any = run_python(TEXTS["extending.md"], tmp_path)
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    uniform = torch.full_like(p, 1 / 3)
    expected = F.kl_div(uniform.log(), p, reduction="batchmean")
    torch.testing.assert_close(shown["from_uniform"](p.log()), expected)
    model, x, y = nn.Linear(4, 3), torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    loss = shown["ConfidencePenalty"](0.5)(model, F.cross_entropy, [x], y)
    log_p = model(x).log_softmax(1)
    distance = F.kl_div(uniform[0].log().expand(6, 3), log_p, log_target=True, reduction="batchmean")
    by_hand = F.cross_entropy(model(x), y) + 0.5 * distance
    torch.testing.assert_close(loss.total, by_hand)
    before = model.weight.detach().clone()
    optimizer = shown["Centralized"](torch.optim.SGD(model.parameters(), lr=1.0))
    optimizer.step(lambda: loss.total.backward())
    torch.testing.assert_close((before - model.weight).mean(1), torch.zeros(3))
    assert (before - model.weight).abs().max() > 1e-3


def with_files(folder: Path, overrides: list[str], path: str) -> None:
    """A run in one of the pool's processes, which find a page's files."""
    sys.path.insert(0, path)
    in_process(folder, overrides)


def test_a_penalty_from_outside_is_what_it_says_and_the_same_on_two_processes(
    files: Path, two: Pool, tmp_path: Path
) -> None:
    penalty = ["regularizer=consistency", "regularizer.penalty._target_=cosine.Cosine"]
    check(penalty)
    with pytest.raises(UserError, match=r"^regularizer\.views=1: the penalty compares views, so views must be 2$"):
        check([*penalty, "regularizer.views=1"])
    exact = [*penalty, "alpha=0.5", "trainer.precision=64-true", "trainer.log_every_n_steps=1", "data.max_train=65"]
    in_process(tmp_path / "one", exact)
    two(with_files, tmp_path / "two", [*exact, "trainer.devices=2"], str(files))
    assert_equal_rows(tmp_path / "one", tmp_path / "two")

    cosine: Any = importlib.import_module("cosine").Cosine(0.5)
    model, x, y = small_cnn((1, 8, 8), 10, 8, 4).double(), torch.randn(2, 6, 1, 8, 8).double(), torch.arange(6)
    loss, head = cosine(model, F.cross_entropy, list(x), y), list(model.head.parameters())
    one, other = (parameters_to_vector(torch.autograd.grad(F.cross_entropy(model(v), y), head)) for v in x)
    assert loss.penalty.item() == pytest.approx(1 - (one @ other / one.norm() / other.norm()).item(), rel=1e-12)
    assert any(p.grad is None for p in model.parameters())
    loss.total.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_what_extends_the_project_trains(files: Path) -> None:
    """Each command of the page, on few images; a searchpath is made absolute, for the test is no Hydra run."""
    for words in (w for w in commands(TEXTS["extending.md"]) if w[0] != "gvr-report" and "--help" not in w):
        searched = [f"hydra.searchpath=[file://{files / 'my_conf'}]"] * any("searchpath" in w for w in words)
        overrides = [w for w in expand(words) if not NO_RUN.match(w)]
        overrides = [choices(parse(w), [])[0].input_line for w in overrides]  # of a sweep the first job
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            cfg = compose("config", overrides=[*TINY, *overrides, *searched])
        folder = files / f"run {len(list(files.iterdir()))}"
        assert run(cfg, folder)["status"] == "finished", shlex.join(words)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_right(line: str, files: Path, request: pytest.FixtureRequest) -> None:
    if not line.startswith("gvr-sample"):  # which changes what Hydra composes
        request.getfixturevalue("composed_once")
    check_command(COMMANDS[line])


def test_commands_of_every_form_are_found() -> None:
    """As a line, behind torchrun, over two lines, within a sentence, of every entry point."""
    assert {"train.py regularizer=gvr alpha=0.01", "train.py --help", "gvr-report --help"} <= COMMANDS.keys()
    assert {"train.py trainer=ddp resume=auto hydra.run.dir=/shared/runs/a", "gvr-sample --help"} <= COMMANDS.keys()
    assert any("scheduler=constant" in line for line in COMMANDS) and len(COMMANDS) > 80


DESCRIBED = {  # where a group's options are
    "regularizer": "docs/pages/methods/*.md",
    "optimizer": "docs/pages/methods/*.md",
    "label_noise": "docs/pages/label-noise.md",
    "sampler": "docs/pages/generation.md",
    "extractor": "docs/pages/generation.md",
    "sweep": "docs/pages/sweeps.md",
    "logger": "docs/pages/results.md",
    "experiment": "experiments/*/README.md",
}


@pytest.mark.parametrize("group", DESCRIBED)
def test_every_option_is_described(group: str) -> None:
    text = "".join(path.read_text() for path in ROOT.glob(DESCRIBED[group]))
    for path in (conf_folder() / group).glob("*.yaml"):
        assert re.search(rf"\b{path.stem}\b", text), path.stem


@pytest.mark.parametrize("page", TEXTS)
def test_links_and_paths_lead_somewhere(page: str) -> None:
    for target in links(TEXTS[page]):
        assert ((PAGES / page).parent / target).resolve().is_file(), target
    for path in re.findall(r"(?<![\w/])(?:experiments|tests|gvr_lightning|docs|conf)/[\w./]*\w", TEXTS[page]):
        assert (ROOT / path).exists(), path


def test_links_of_the_studies_lead_somewhere() -> None:
    for page, text in EXPERIMENTS.items():
        for target in links(text):
            assert ((ROOT / page).parent / target).exists(), (page, target)


class Loads(HTMLParser):
    """Collects what a page makes a browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "img", "link", "iframe", "source"):
            self.found += [value for name, value in attrs if name in ("src", "href") and value]


def test_the_site_is_built_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = {path.relative_to(site).with_suffix(".md").as_posix(): path for path in site.rglob("*.html")}
    assert pages.keys() - {"404.md"} == TEXTS.keys()
    for path in pages.values():
        loads = Loads()
        loads.feed(path.read_text())
        assert loads.found and not [target for target in loads.found if "//" in target], path
        shown = re.sub("<[^>]*>", "", "".join(re.findall("<math.*?</math>", path.read_text(), re.DOTALL)))
        assert "\\" not in shown, path  # a command that was not understood
    formulas = pages["methods/gvr.md"].read_text()
    assert formulas.count("<math") == len(re.findall(r"\$\$.+?\$\$|\$.+?\$", TEXTS["methods/gvr.md"]))
    assert "arithmatex" not in formulas and 'display="block"' in formulas


def test_the_table_of_keys_is_the_configuration_s() -> None:
    written: Any = run_path(str(ROOT / "docs" / "keys.py"))
    assert written["page"](TEXTS["keys.md"]) == TEXTS["keys.md"], "run python docs/keys.py"
    rows = re.findall(r"^\| `([\w.]+)` \| `(.*?)`", TEXTS["keys.md"], re.MULTILINE)
    listed, there = dict(rows), configured()
    assert len(rows) == len(listed) and listed.keys() == there.keys(), listed.keys() ^ there.keys()
    for key, default in listed.items():
        assert yaml.safe_load(default) in there[key], (key, there[key])
