"""Where the configs lie, and which options they offer."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def conf_folder() -> Path:
    """The absolute folder of the configs: in the package if it is installed, else beside it in the checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def group_options() -> dict[str, list[str]]:
    """Every config group with its options, both in alphabetical order."""
    folders = sorted(path for path in conf_folder().iterdir() if path.is_dir())
    return {folder.name: sorted(path.stem for path in folder.glob("*.yaml")) for folder in folders}


def chosen_by(group: str, target: str) -> str:
    """What chooses a target: an option of its group, if one has it."""
    for path in sorted((conf_folder() / group).glob("*.yaml")):
        if f"_target_: {target}\n" in path.read_text(encoding="utf-8"):
            return f"{group}={path.stem}"
    return target


def first_comment(group: str, option: str) -> str:
    """What the first comment of an option's file says, "" without one."""
    path = conf_folder() / group / f"{option}.yaml"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            return line.removeprefix("#").strip()
    return ""
