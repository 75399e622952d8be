"""A plan's file read and checked: an unknown key, a value out of range or a contradiction ends in one line."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gvr_lightning.config.ranges import SETTINGS
from gvr_lightning.config.wording import nearest, show
from gvr_lightning.errors import UserError
from gvr_lightning.files import read_yaml
from gvr_lightning.report.metrics import Metric
from gvr_lightning.study import keys
from gvr_lightning.study.contradictions import refuse_contradictions
from gvr_lightning.study.plan import Arm, Comparison, Look, Plan, Rung, Tuning
from gvr_lightning.study.search import search_space

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,39}")  # of an arm: a folder is called so
ALPHAS = (0.005, 0.048)  # of two looks: together 5%


def read_plan(file: Path, launcher: Sequence[str] = ()) -> Plan:
    """The plan in a YAML file.

    Args:
        file: where it is.
        launcher: settings of Hydra's launcher that count instead of the plan's; none for those.

    Raises:
        UserError: for the first mistake.
    """
    try:
        found = read_yaml(file)
    except FileNotFoundError as error:
        raise UserError(f"{file}: there is no such file; a plan is a YAML file, --help shows its keys") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    try:
        plan = _plan(file, found)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    return replace(plan, launcher=tuple(launcher) or plan.launcher)


def _plan(file: Path, found: Any) -> Plan:
    top = _node("", found, keys.PLAN)
    arms = {str(name): _arm(f"arms.{name}", node) for name, node in top["arms"].items()}
    tuning = None if top["tuning"] is None else _tuning(top["tuning"])
    node = _node("confirmation", top["confirmation"], keys.CONFIRMATION)
    seeds = _seeds("confirmation.seeds", node["seeds"])
    looks = _looks(node["looks"], len(seeds))
    comparison = _comparison(top["comparison"])
    folder = Path(top["folder"] or Path("outputs") / file.stem).expanduser()
    registered = {key: value for key, value in top.items() if key not in ("folder", "launcher")}
    plan = Plan(file, folder, tuple(top["setting"]), arms, tuning, comparison, seeds, looks, top["seed"],
                tuple(top["launcher"]), registered)  # fmt: skip
    refuse_contradictions(plan)
    return plan


def _node(path: str, node: Any, table: keys.Keys) -> dict[str, Any]:
    """A mapping's values, defaults where it has none."""
    where = f"{path}." if path else ""
    if not SETTINGS.holds(node):
        raise UserError(f"{path or 'the plan'} must be {SETTINGS.words}, got {show(node)}")
    for key, value in node.items():
        if key not in table:
            near = nearest(str(key), table)
            hint = f"did you mean {where}{near}?" if near else f"there is {', '.join(table)}"
            raise UserError(f"there is no key {where}{key}; {hint}")
        if not table[key][1].holds(value):
            raise UserError(f"{where}{key}={show(value)}: must be {table[key][1].words}")
    missing = [key for key, (default, _, _) in table.items() if default is keys.NEEDED and key not in node]
    if missing:
        raise UserError(f"{where}{missing[0]} is missing: {table[missing[0]][2]}")
    return {key: node.get(key, default) for key, (default, _, _) in table.items()}


def _arm(path: str, node: Any) -> Arm:
    name = path.partition(".")[2]
    if not NAME.fullmatch(name):
        raise UserError(f"{path}: an arm's name is of letters, digits, . _ and -, at most 40")
    found = _node(path, {} if node is None else node, keys.ARM)
    search = {str(key): search_space(f"{path}.search.{key}", value) for key, value in found["search"].items()}
    return Arm(tuple(found["overrides"]), search)


def _tuning(node: Any) -> Tuning:
    found = _node("tuning", node, keys.TUNING)
    rungs = []
    for i, each in enumerate(found["rungs"]):
        rung = _node(f"tuning.rungs.{i}", each, keys.RUNG)
        rungs.append(Rung(rung["length"], _seeds(f"tuning.rungs.{i}.seeds", rung["seeds"]), rung["keep"]))
    return Tuning(found["metric"], found["configurations"], tuple(rungs), found["further"])


def _seeds(path: str, value: Any) -> tuple[int, ...]:
    seeds: Any = value
    if isinstance(value, dict) and value.keys() == {"first", "number"}:
        first, number = value["first"], value["number"]
        if keys.SEED.holds(first) and type(number) is int and 1 <= number <= 10_000:
            seeds = list(range(first, first + number))
    valid = isinstance(seeds, list) and seeds and all(map(keys.SEED.holds, seeds)) and len(set(seeds)) == len(seeds)
    if not valid:
        raise UserError(f"{path}={show(value)}: must be {keys.SEEDS.words}")
    return tuple(seeds)


def _looks(nodes: Any, seeds: int) -> tuple[Look, ...]:
    if nodes is None:
        half = (seeds + 1) // 2
        return (*([Look(half, ALPHAS[0])] if 2 <= half < seeds else []), Look(seeds, ALPHAS[1]))
    found = [_node(f"confirmation.looks.{i}", node, keys.LOOK) for i, node in enumerate(nodes)]
    looks = tuple(Look(node["seeds"], node["alpha"]) for node in found)
    numbers = [look.seeds for look in looks]
    if numbers != sorted(set(numbers)) or numbers[-1] != seeds:
        raise UserError(
            f"confirmation.looks: their seeds must grow, the last look has all {seeds}; got {show(numbers)}"
        )
    return looks


def _comparison(node: Any) -> Comparison:
    found = _node("comparison", node, keys.COMPARISON)
    if not Metric(found["metric"]).direction:
        raise UserError(f"comparison.metric={found['metric']}: neither higher nor lower is known to be better")
    candidates, comparators = (tuple(map(str, found[name])) for name in ("candidates", "comparators"))
    return Comparison(found["metric"], candidates, comparators, found["difference"], found["power"])
