"""Every arm's command line checked before the first run, as ``gvr-train`` would, and how long the arms are."""

from collections.abc import Sequence

from gvr_lightning.config.check import check
from gvr_lightning.config.composed import composed
from gvr_lightning.config.overrides import parse
from gvr_lightning.config.wording import show
from gvr_lightning.errors import UserError
from gvr_lightning.study.plan import Arm, Plan
from gvr_lightning.study.search import configurations

OURS = ("seed", "name", "resume", "trainer.max_epochs")  # keys that the study sets; the length is that of epochs


def check_arms(plan: Plan) -> dict[str, int]:
    """The epochs of each arm, once all that it may run is right.

    Raises:
        UserError: for the first mistake, with the arm.
    """
    for text in plan.launcher:
        if not text.startswith(("hydra/launcher=", "hydra.launcher.")):
            raise UserError(f"{plan.file}: launcher: {text}: only hydra/launcher=... and hydra.launcher.<key>=...")
    try:
        check([*plan.launcher])
    except UserError as error:
        raise UserError(f"{plan.file}: launcher: {error}") from error
    found = {}
    for name, arm in plan.arms.items():
        try:
            overrides = [*plan.setting, *arm.overrides]
            _check_keys(overrides, arm)
            swept = [f"{key}={','.join(map(show, values))}" for key, values in arm.search.items()]
            check([*overrides, *swept], multirun=True)
            found[name] = composed(overrides)["epochs"]
        except UserError as error:
            raise UserError(f"{plan.file}: arms.{name}: {error}") from error
        configurations(plan, name)
    return found


def _check_keys(overrides: Sequence[str], arm: Arm) -> None:
    given = {}
    for text in overrides:
        override = parse(text)
        if override.is_sweep_override():
            raise UserError(f"{text}: several values belong to the arm's search")
        given[override.key_or_group] = text
    for key in (*given, *arm.search):
        if key in OURS or key.partition(".")[0] in ("hydra",) or key.startswith("hydra/"):
            hint = "; give epochs" if key.startswith("trainer") else ""
            raise UserError(f"{given.get(key, f'search.{key}')}: {key} is set by the study itself{hint}")
    for key in arm.search:
        if key == "epochs":
            raise UserError("search.epochs: the length is the arm's own; tuning.rungs shorten it")
        if key in given:
            raise UserError(f"search.{key}: {given[key]} stands among the overrides")
