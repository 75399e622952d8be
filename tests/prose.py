"""What a Markdown page shows to its readers: Python to run, files to make, commands to type, links to follow."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

from gvr_lightning.config.check import check
from gvr_lightning.config.flags import separate
from gvr_lightning.config.sampling import read_sample_line
from gvr_lightning.config.sweep import expand
from gvr_lightning.config.trained import read_export_line, read_predict_line
from gvr_lightning.report.settings import read_report_line
from gvr_lightning.study.check import check_arms
from gvr_lightning.study.read import read_plan

FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
NAME = r"(?:train\.py|gvr-(?:train|sample|report|study|export|predict))"
COMMAND = re.compile(
    rf"(?:^ *|`)(?:(?:torchrun|python)\b[^\n]*? )??({NAME}(?: [^->][^`\n]*| -[a-z-][^`\n]*)?)(?=[`\n])", re.MULTILINE
)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def blocks(text: str, language: str) -> list[tuple[str, str]]:
    """The fenced blocks of a language, each with the file that its title names, "" for none."""
    return [(title, code) for kind, title, code in FENCE.findall(text) if kind == language]


def run_python(text: str, folder: Path) -> dict[str, object]:
    """Run a page's Python blocks one after the other; those with a title are files in ``folder`` as well.

    Returns:
        Their names.
    """
    names: dict[str, object] = {"__name__": "page"}
    for title, code in blocks(text, "python"):
        if title:
            (folder / title).parent.mkdir(parents=True, exist_ok=True)
            (folder / title).write_text(code)
        exec(compile(code, title or "page", "exec"), names)
    return names


def commands(text: str) -> list[list[str]]:
    """The commands that the project gives, as lists of arguments from ``train.py`` or ``gvr-...`` on."""
    text = re.sub(r"<(\w+)>", r"\1", text.replace("\\\n", " "))  # <name> stands for a name
    found = [shlex.split(line, comments=True) for line in COMMAND.findall(text)]
    return [words for words in found if len(words) > 1]  # others are names in a sentence


def check_command(words: list[str]) -> None:
    """What the command itself would check before it loads torch; UserError for a mistake."""
    CHECKS[words[0]](words[1:])


def links(text: str) -> list[str]:
    """The targets of a page's links into the project, without what follows a #."""
    targets = [target.partition("#")[0] for target in LINK.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL))]
    return [target for target in targets if target and not target.startswith(("http:", "https:"))]


def _check_train(words: list[str]) -> None:
    words = [w for w in words if w != "--help"]
    config_dir = separate([w for w in words if w != "..."])[0].config_dir
    words = expand(words, config_dir)
    overrides = [w for w in separate(words)[2] if w != "..." and (w == "resume=auto" or not w.startswith("resume="))]
    overrides = [re.sub(r"^(seed=\d+),.*", r"\1", w) for w in overrides]  # one seed is like another
    own = [f"hydra.searchpath=[file://{config_dir}]"] if config_dir else []
    check([*overrides, *own], multirun="-m" in words)


def _check_sample(words: list[str]) -> None:
    if "--help" not in words:
        read_sample_line([w for w in words if w != "..."])


def _check_report(words: list[str]) -> None:
    if "--help" not in words:
        read_report_line([w if "=" in w else "." for w in words])  # its folders come to be when runs do


def _check_study(words: list[str]) -> None:
    file = Path(__file__).parents[1] / words[0]
    if file.is_file():  # others are the reader's
        check_arms(read_plan(file, [w for w in words[1:] if w != "--status"]))


def _check_trained(read: Callable[[list[str]], object]) -> Callable[[list[str]], object]:
    return lambda words: None if "--help" in words else read(words)


CHECKS: dict[str, Callable[[list[str]], object]] = {
    "train.py": _check_train,
    "gvr-train": _check_train,
    "gvr-sample": _check_sample,
    "gvr-report": _check_report,
    "gvr-study": _check_study,
    "gvr-export": _check_trained(read_export_line),
    "gvr-predict": _check_trained(read_predict_line),
}
