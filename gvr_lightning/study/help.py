"""What ``gvr-study --help`` says: the command, and every key of a plan."""

from gvr_lightning.config.columns import page_width, paragraph, row
from gvr_lightning.config.wording import show
from gvr_lightning.study.keys import NEEDED, SECTIONS, Keys

WHAT = "Runs a whole study by its plan: equal tuning of every arm, fresh seeds, the registered comparison, a report."
USAGE = """\
Usage: gvr-study PLAN.yaml [hydra/launcher=NAME] [hydra.launcher.KEY=VALUE ...]
       gvr-study PLAN.yaml --status"""
HOW = """\
Before anything runs, the plan's hash and the code's commit are written into the study's folder; a changed plan is
refused there. The same line goes on where a study was stopped, at any moment: finished runs are not run again."""
SHORT = 40  # characters of a range that is told
FLAGS = "Flags: --status, how far it is; --help, this page; --version, the project's"


def study_help() -> str:
    """The page."""
    width = page_width()
    tables = [f"{title}\n{_rows(table, width)}" for title, table in SECTIONS.items()]
    return "\n\n".join([paragraph(WHAT, width), USAGE, paragraph(HOW, width), "What stands in a plan", *tables, FLAGS])


def _rows(table: Keys, width: int) -> str:
    lines = []
    for key, (default, rule, words) in table.items():
        left = f"  {key}:" if default is NEEDED else f"  {key}: {show(default)}"
        told = f"{words} ({rule.words})" if "number" in rule.words and len(rule.words) < SHORT else words
        lines.append(row(left, told, 24, width))
    return "\n".join(lines)
