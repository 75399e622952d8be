"""``gvr-study``: a plan, from its tuning to its report; the same line goes on where it was stopped."""

import sys
from pathlib import Path

from gvr_lightning.app.command import command
from gvr_lightning.config.wording import suggest
from gvr_lightning.errors import TrainingError, UserError
from gvr_lightning.study.help import study_help
from gvr_lightning.study.read import read_plan

STATUS = "--status"


def main(args: list[str] | None = None) -> None:
    """Check the plan, then run it; exit status 2 for a mistake, 1 for crashed runs, 130 for an interruption.

    Args:
        args: the arguments; None for those of this process.
    """
    command(sys.argv[1:] if args is None else args, study_help, _study)


def _study(arguments: list[str]) -> object:
    file, launcher, only_status = _line(arguments)
    plan = read_plan(file, launcher)
    if only_status:
        from gvr_lightning.study.status import status

        return _printable(status(plan))
    from gvr_lightning.study.run import run_study  # Hydra, jinja2 and matplotlib, a second

    try:
        return _printable(run_study(plan))
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"interrupted; gvr-study {file} goes on", file=sys.stderr)
        raise


def _line(arguments: list[str]) -> tuple[Path, list[str], bool]:
    """The plan, the launcher's settings, and whether only the status is asked for."""
    files, launcher = [], []
    for text in arguments:
        if text.startswith("-") and text != STATUS:
            raise UserError(f"{text}: there is no such flag; {suggest(text, [STATUS, '--help', '--version'])}")
        if text.startswith(("hydra/launcher=", "hydra.launcher.")):
            launcher.append(text)
        elif "=" in text and not Path(text).exists():
            raise UserError(f"{text}: a study's settings stand in its plan; only hydra/launcher=... and"
                            " hydra.launcher.<key>=... are given here")  # fmt: skip
        elif text != STATUS:
            files.append(Path(text).expanduser())
    if len(files) != 1:
        given = ", ".join(map(str, files)) or "none"
        raise UserError(f"one plan is needed, given: {given}; gvr-study PLAN.yaml, --help shows what stands in it")
    return files[0], launcher, STATUS in arguments


def _printable(text: str) -> str:
    from gvr_lightning.report.terminal import printable

    return printable(text, sys.stdout.encoding)


if __name__ == "__main__":
    main()
