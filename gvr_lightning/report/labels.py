"""Short names for what differs: an option of a config group where it explains the rest, else keys and values."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gvr_lightning.config.identity import SHORT, TAKERS
from gvr_lightning.config.wording import show
from gvr_lightning.report.runs import FlatConfig, Run, frozen

BARE = ("regularizer", "optimizer", "model", "data")  # whose options speak for themselves
FIRST = (*BARE, "scheduler", "trainer")  # the order of a label's pieces; others follow
UNTOLD = ("trainer",)  # whose options say where a run is computed


@dataclass(frozen=True)
class Source:
    """A run with what defines it."""

    run: Run
    flat_config: FlatConfig

    def values(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of some keys, to compare them."""
        return tuple(frozen(self.flat_config.get(name)) for name in names)


def labels(sources: Sequence[Source], names: Sequence[str], always: bool = False) -> list[str]:
    """A label for each run: equal where the runs agree in all of the names, else different.

    Args:
        sources: the runs.
        names: keys that differ between them.
        always: whether to show values from a command line even where it was the same for all.
    """
    roots = sorted({name.partition(".")[0] for name in names}, key=lambda r: (_position(r), r))
    pieces: list[list[str]] = []
    shortest = short_names(names)
    for root in roots:
        pieces += _pieces(sources, [name for name in names if name.partition(".")[0] == root], shortest, always)
    return [", ".join(piece[i] for piece in pieces if piece[i]) or "default" for i in range(len(sources))]


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each name's shortest end that no other shares; a target is called as the node that it makes."""
    readable = {name: SHORT.get(name, name.removesuffix("._target_")) for name in names}
    found = {}
    for name, text in readable.items():
        parts = text.split(".")
        ends = [".".join(parts[i:]) for i in reversed(range(len(parts)))]
        others = [other for key, other in readable.items() if key != name]
        free = (end for end in ends if not any(other == end or other.endswith(f".{end}") for other in others))
        found[name] = next(free, text)
    return found


def overridden(run: Run) -> dict[str, str]:
    """The command line's keys and values; of a key that acts through another, by that one's name."""
    typed = {key.lstrip("+~"): value for key, value in run.command_line.items()}
    return {TAKERS.get(key, key): value for key, value in typed.items()}


def _pieces(sources: Sequence[Source], names: list[str], short: dict[str, str], always: bool) -> list[list[str]]:
    """Of one config group: the option that was chosen, if it differs, then as few keys as tell the rest apart."""
    root = names[0].partition(".")[0]
    options = [source.run.choices.get(root, "none") if source.run.choices else "" for source in sources]
    known = all(options) and len(set(options)) > 1 and root not in UNTOLD
    prefix = "" if root in BARE else f"{root}="
    pieces = [[f"{prefix}{option}" for option in options]] if known else []
    parts: list[tuple[str, ...]] = [(option,) if known else () for option in options]
    for name in sorted(names, key=lambda n: not n.endswith("_target_")):
        values = [frozen(source.flat_config.get(name)) for source in sources]
        finer = [(*part, value) for part, value in zip(parts, values, strict=True)]
        by_hand = _chosen(sources, finer, name, always)
        splits = len(set(finer)) > len(set(parts))
        if splits or by_hand:
            clear = known or root in BARE or name in SHORT
            texts = _texts(sources, name, short[name] if clear else _qualified(root, short[name]))
            if not splits or (known and name.endswith("_target_")):  # an option has its own target
                brief = [text if part in by_hand else "" for text, part in zip(texts, finer, strict=True)]
                enough = len(set(zip(parts, brief, strict=True))) == len(set(finer))
                texts = brief if enough else texts
            pieces.append(texts)
            parts = finer
    return pieces


def _chosen(
    sources: Sequence[Source], parts: Sequence[tuple[str, ...]], name: str, always: bool
) -> set[tuple[str, ...]]:
    """The parts in which somebody set this key: to show it even where the options alone would tell them apart."""
    texts = [overridden(source.run).get(name) for source in sources]
    if len(set(texts)) == 1 and not always:
        return set()
    return {part for part, text in zip(parts, texts, strict=True) if text is not None}


def _qualified(root: str, text: str) -> str:
    return text if f"{text}.".startswith(f"{root}.") else f"{root}.{text}"


def _texts(sources: Sequence[Source], name: str, short: str) -> list[str]:
    """The key with its value in each run, "" where it is absent; as short as tells the values apart."""
    values = [source.flat_config.get(name) for source in sources]
    forms = [[_brief(name, value) for value in values], list(map(show, values)), list(map(str, values))]
    distinct = len(set(map(frozen, values)))
    texts = next((form for form in forms if len(set(form)) >= distinct), forms[-1])
    return [
        f"{short}={text}" if name in source.flat_config else "" for source, text in zip(sources, texts, strict=True)
    ]


def _brief(name: str, value: Any) -> str:
    return str(value).rpartition(".")[2] if name.endswith("_target_") and value is not None else show(value)


def _position(root: str) -> int:
    """Of a config group's pieces in a label."""
    return FIRST.index(root) if root in FIRST else len(FIRST)
