"""Where the configs lie, and which options they offer."""

from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def conf_folder() -> Path:
    """The absolute folder of the configs: in the package if it is installed, else beside it in the checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def group_options(own: Sequence[Path] = ()) -> dict[str, list[str]]:
    """Every config group with its options, both in alphabetical order; with those of a user's own folders."""
    groups, bases = sorted(path.name for path in conf_folder().iterdir() if path.is_dir()), (conf_folder(), *own)
    return {group: sorted({file.stem for base in bases for file in (base / group).glob("*.yaml")}) for group in groups}


def option_file(group: str, option: str, own: Sequence[Path] = ()) -> Path | None:
    """An option's file; of several the project's, as in Hydra; None if there is none."""
    files = [base / group / f"{option}.yaml" for base in (conf_folder(), *own)]
    return next((file for file in files if file.exists()), None)


def chosen_by(group: str, target: str) -> str:
    """What chooses a target: an option of its group, if one has it."""
    for path in sorted((conf_folder() / group).glob("*.yaml")):
        if f"_target_: {target}\n" in path.read_text(encoding="utf-8"):
            return f"{group}={path.stem}"
    return target


def first_comment(group: str, option: str, own: Sequence[Path] = ()) -> str:
    """What the first comment of an option's file says, "" without one."""
    path = option_file(group, option, own)
    for line in path.read_text(encoding="utf-8").splitlines() if path else []:
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            return line.removeprefix("#").strip()
    return ""
