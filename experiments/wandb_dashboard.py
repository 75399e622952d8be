"""A study's W&B workspace, built from code: charts, pictures and a run table, grouped by group and job type.

    python experiments/wandb_dashboard.py group=study                         # print what it has; needs no network
    python experiments/wandb_dashboard.py entity=me group=study save=true     # save it, print its address

Settings, all key=value:
    entity    of W&B: an account or a team; needed to save
    project   of W&B, default gvr_lightning
    group     of W&B: a sweep's folder name or a run's name; default: all runs of the project
    save      true or false, default false

The names of its metrics are those of metrics.csv and summary.json.
"""

import json
import sys
from typing import Any

import wandb
from wandb_workspaces import expr
from wandb_workspaces.reports import v2 as panels
from wandb_workspaces.workspaces import RunsetSettings, Section, Workspace, WorkspaceSettings

from gvr_lightning.errors import UserError

SETTINGS = {"entity": "", "project": "gvr_lightning", "group": "", "save": "false"}
LINES: dict[str, list[dict[str, Any]]] = {  # sections of charts against x
    "accuracy": [
        {"title": "validation accuracy by seconds of training", "x": "train/seconds", "y": ["val/acc"]},
        {"title": "validation accuracy by images seen", "x": "train/images", "y": ["val/acc"]},
        {"title": "loss", "x": "epoch", "y": ["train/loss", "val/loss"]},
    ],
    "regularization": [
        {"title": "penalty", "x": "epoch", "y": ["train/penalty"], "log_y": True},
        {"title": "the penalty's share of the loss", "x": "epoch", "y": ["train/penalty_share"]},
        {"title": "agreement of the views", "x": "epoch", "y": ["train/view_agreement"]},
        {"title": "AGR: mean coefficient", "x": "trainer/step", "metric_regex": "agr/mean_coef/.*", "log_y": True},
        {"title": "AGR: largest coefficient", "x": "trainer/step", "metric_regex": "agr/max_coef/.*"},
    ],
    "generation": [
        {"title": "Fréchet inception distance", "x": "epoch", "y": ["fid"]},
        {"title": "inception score", "x": "epoch", "y": ["is/mean"]},
    ],
}
BARS = {"test accuracy": "test/acc", "best validation accuracy": "best/val/acc"}
PICTURES = {"generation": ["samples/grid", "samples/denoising"], "runs": ["curves"]}
COLUMNS = ("test/acc", "val/acc", "best/val/acc", "test/loss", "fid", "is/mean", "train/images", "train/seconds")
AVERAGED: dict[str, Any] = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}  # of runs that are grouped


def main() -> None:
    """Print the workspace, or save it; exit status 2 for a mistake."""
    try:
        settings = read_settings(sys.argv[1:])
        board = workspace(settings["entity"], settings["project"], settings["group"])
        if settings["save"] == "true":
            print(save(board))
        else:
            print(json.dumps(describe(board), indent=2, ensure_ascii=False))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def read_settings(arguments: list[str]) -> dict[str, str]:
    """The settings of a command line.

    Raises:
        UserError: for a setting that is not there, or to save without an entity.
    """
    given = {key: value for key, _, value in (argument.partition("=") for argument in arguments)}
    for key in given:
        if key not in SETTINGS:
            raise UserError(f"{key}: there is no such setting; there is {', '.join(SETTINGS)}, each as key=value")
    settings = SETTINGS | given
    if settings["save"] not in ("true", "false"):
        raise UserError(f"save={settings['save']}: must be true or false")
    if settings["save"] == "true" and not settings["entity"]:
        raise UserError("save=true: add entity=<account or team>")
    return settings


def workspace(entity: str, project: str, group: str = "") -> Workspace:
    """The workspace of a project's runs, or of one group of them; nothing is sent."""
    sections: dict[str, list[Any]] = {
        name: [panels.LinePlot(**line, **AVERAGED) for line in lines] for name, lines in LINES.items()
    }
    sections["accuracy"] += [panels.BarPlot(title=t, metrics=[name], **AVERAGED) for t, name in BARS.items()]
    sections["runs"] = [panels.RunComparer(diff_only=True)]
    for name, keys in PICTURES.items():
        sections[name].append(panels.MediaBrowser(title="pictures", media_keys=keys, num_columns=2))
    return Workspace(
        entity=entity,
        project=project,
        name=f"study {group}" if group else "all runs",
        sections=[Section(name=name, panels=inside, is_open=True) for name, inside in sections.items()],
        settings=WorkspaceSettings(x_axis="epoch", max_runs=100),
        runset_settings=RunsetSettings(
            filters=expr.And(expr.Metric("Group") == group) if group else "",
            groupby=[expr.Metric("Group"), expr.Metric("JobType")],
            pinned_columns=[f"summary:{name}" for name in COLUMNS],
        ),
    )


def describe(board: Workspace) -> dict[str, Any]:
    """What a workspace shows, as plain containers."""
    runs = board.runset_settings
    return {
        "project": f"{board.entity}/{board.project}".lstrip("/"),
        "name": board.name,
        "runs": {
            "filter": runs.filters,
            "group by": [by.name for by in runs.groupby],
            "columns": [column.removeprefix("summary:") for column in runs.pinned_columns if "summary:" in column],
        },
        "sections": {section.name: [_panel(panel) for panel in section.panels] for section in board.sections},
    }


def _panel(panel: Any) -> dict[str, Any]:
    shown = {key: getattr(panel, key, None) for key in ("title", "x", "y", "metric_regex", "metrics", "media_keys")}
    return {"kind": type(panel).__name__} | {key: value for key, value in shown.items() if value}


def save(board: Workspace) -> str:
    """Save a workspace; its address.

    Raises:
        UserError: without a key, a network, or the right to.
    """
    try:
        wandb.setup(wandb.Settings(silent=True, mode="online"))
        if not wandb.login(prompt=False, verify=False):
            raise UserError("W&B has no API key here: log in with `wandb login`")
        board.save()
        address: str = board.url
        return address
    except UserError:
        raise
    except Exception as error:  # of the network, the server, the key
        raise UserError(f"W&B did not save it: {' '.join(str(error).split())}") from error
    finally:
        wandb.teardown()


if __name__ == "__main__":
    main()
