"""Where the figures come from: commands, versions, and what a reader should be warned of."""

import shlex
from collections import Counter, defaultdict
from collections.abc import Sequence
from math import prod
from typing import Any

from gvr_lightning.config.identity import TAKERS, leaves
from gvr_lightning.config.wording import show
from gvr_lightning.report.groups import Comparison, Setting, alike
from gvr_lightning.report.runs import CUT, Run
from gvr_lightning.report.tables import Cell, Table

# Of summary.json, wanted equal in a comparison.
SAME = ("versions", "git", "data_hash", "world_size", "protocol", "machine")
SHOWN = ("epochs", "batch_size", "lr")  # beside the options, where all runs agree
NAMED = 20  # classes
UNTOLD = ("logger", "trainer", "experiment")  # options that say nothing about the method
CommandLine = dict[str, str]  # keys and values


def warnings(comparison: Comparison) -> list[str]:
    """What differs between the runs of a setting besides their configuration."""
    found = []
    for setting in comparison.settings:
        runs = setting.runs
        where = f" ({setting.label})" if setting.label else ""
        found += [f"{text}{where}." for text in [*_differences(runs), *_seeds(setting)]]
    if any((run.summary.get("label_noise") or {}).get("validation") for run in comparison.runs):
        found.append("Label noise is in the validation labels, too: validation figures, the best checkpoint and the"
                     " temperature go by labels of which some are wrong. Test labels are as they are.")  # fmt: skip
    dirty, of = sum(bool((run.summary.get("git") or {}).get("dirty")) for run in comparison.runs), len(comparison.runs)
    if dirty:
        found.append(f"{dirty} of {of} {comparison.task} runs: the code had changes that were not committed.")
    return found


def versions_table(runs: Sequence[Run]) -> Table:
    """Versions, commits and numbers of processes, with how many runs had which."""
    names: dict[str, Counter[str]] = defaultdict(Counter)
    for run in runs:
        for name, value in _recorded(run).items():
            names[name][_short(value)] += 1
    lines = []
    for name, counts in names.items():
        texts = [value if len(counts) == 1 else f"{value} ({n} runs)" for value, n in counts.most_common()]
        lines.append([Cell(name.removeprefix("versions.")), Cell(", ".join(texts))])
    return Table("Versions and machines", ["", "recorded by the runs"], lines, wide=True)


def common(comparison: Comparison) -> str:
    """What all runs of a comparison share, in a line: options, usual settings, and what else was set by hand."""
    runs, flats = comparison.runs, [leaves(run.config) for run in comparison.runs]
    options = [{run.choices.get(group, "none") for run in runs} for group in runs[0].choices]
    chosen = {group: found for group, found in zip(runs[0].choices, options, strict=True) if group not in UNTOLD}
    shared = [f"{group}={found.pop()}" for group, found in chosen.items() if len(found) == 1 and found != {"none"}]
    values = {name: {show(flat.get(TAKERS.get(name, name))) for flat in flats} for name in SHOWN}
    shared += [f"{name}={found.pop()}" for name, found in values.items() if len(found) == 1]
    by_hand = [key for key in runs[0].command_line if "." in key]
    set_to = {key: {run.command_line.get(key, "") for run in runs} for key in by_hand}
    shared += [f"{key}={found.pop()}" for key, found in set_to.items() if len(found) == 1]
    return ", ".join([*shared, *_classes(runs)])


def _classes(runs: Sequence[Run]) -> list[str]:
    """The names of the classes, where all runs have the same ones."""
    names: list[Any] = runs[0].summary.get("classes") or []
    if not names or any(run.summary.get("classes") != names for run in runs):
        return []
    more = f", … {names[-1]}" if len(names) > NAMED else ""
    return [f"{len(names)} classes ({', '.join(map(str, names[:NAMED]))}{more})"]


def commands(runs: Sequence[Run]) -> list[str]:
    """The commands that make these runs again: a sweep where they fill a grid, else one command a configuration."""
    found: list[str] = []
    for same_keys in alike([run.command_line for run in runs if run.overrides is not None], frozenset):
        grid = _sweep(same_keys)
        if grid is not None:
            found.append(grid)
            continue
        for but_seed in alike(same_keys, lambda line: frozenset((k, v) for k, v in line.items() if k != "seed")):
            grid = _sweep(but_seed)
            found += [grid] if grid is not None else [_command(line) for line in but_seed]
    return found


def _sweep(lines: Sequence[CommandLine]) -> str | None:
    """One command for some command lines of the same keys, if they are all combinations of some values."""
    values = {key: list(dict.fromkeys(line[key] for line in lines)) for key in lines[0]}
    distinct = {tuple(line.items()) for line in ({key: line[key] for key in values} for line in lines)}
    if prod(len(options) for options in values.values()) != len(distinct):
        return None
    return _command({key: ",".join(options) for key, options in values.items()}, sweep=len(distinct) > 1)


def _command(line: CommandLine, sweep: bool = False) -> str:
    return shlex.join(
        ["python", "train.py", *(["-m"] if sweep else []), *(f"{k}={v}" if v else k for k, v in line.items())]
    )


def _seeds(setting: Setting) -> list[str]:
    """Whether some configurations lack seeds that others have."""
    seeds = {group.label: ", ".join(map(str, sorted(group.runs))) for group in setting.groups}
    if len(set(seeds.values())) == 1:
        return []
    told = "; ".join(f"{label}: {numbers}" for label, numbers in seeds.items())
    return [f"Seeds differ between configurations, so compare the paired differences, not the means: {told}"]


def _differences(runs: Sequence[Run]) -> list[str]:
    recorded = [_recorded(run) for run in runs]
    found = []
    for name in dict.fromkeys(name for one in recorded for name in one if name != "git.dirty"):
        counts = Counter(_short(one.get(name, "not recorded")) for one in recorded)
        if len(counts) > 1:
            texts = ", ".join(f"{value} in {n} runs" for value, n in counts.most_common())
            found.append(f"{name.removeprefix('versions.')} differs between runs that are compared: {texts}")
    return found


def _recorded(run: Run) -> dict[str, Any]:
    return leaves({name: run.summary[name] for name in SAME if name in run.summary})


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else show(value)
    return text[:CUT] if len(text) in (40, 64) and text.isalnum() else text
