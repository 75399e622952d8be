"""Label noise that is drawn: labels that are wrong on purpose. Imports torch only.

Drawn once from the true labels of the samples that are trained on, by a seed of its own: the same for every seed of the
run, on every process and after a resume. Test labels stay as they are, and those of validation, if nothing else is
said. With one seed, the samples that are mislabelled at 20% are among those at 40%.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gvr_lightning.data.confusions import usual_partners
from gvr_lightning.data.mislabelling import Mislabelling
from gvr_lightning.errors import UserError
from gvr_lightning.random import hash_key, permutation, uniform

WHICH, WHAT = 101, 102  # what a random number is for: which samples, and what label
VALIDATION = 1  # of those that are held out


class LabelNoise(Mislabelling):
    """Gives exactly round(rate * n) of the n samples that it may change another draw of their label.

    Args:
        rate: share of the samples, in [0, 1].
        seed: of the noise alone.
        validation: "clean", or "noisy": the held-out labels are wrong at the same rate, by draws of their own.

    Raises:
        UserError: for a rate out of range.
    """

    def __init__(self, rate: float = 0.4, seed: int = 0, validation: str = "clean") -> None:
        if not 0 <= rate <= 1:
            raise UserError(f"label_noise.rate={rate}: a number in [0, 1]")
        self.rate, self.seed, self.validation = rate, seed, validation

    def __call__(self, targets: Tensor, index: Tensor, classes: Sequence[str]) -> Tensor:
        """Noisy labels, int64 (n,).

        Args:
            targets: the true labels (n,).
            index: the samples' numbers (n,), on which what they are changed to depends.
            classes: the names of all C classes.

        Raises:
            UserError: for a single class, or a map that does not fit the classes.
        """
        return self._drawn(targets, index, classes, self.seed)

    def of_validation(self, targets: Tensor, index: Tensor, classes: Sequence[str], own: bool) -> Tensor:
        """Likewise, by draws of their own."""
        return self._drawn(targets, index, classes, self.seed, VALIDATION)

    def _drawn(self, targets: Tensor, index: Tensor, classes: Sequence[str], *of: int) -> Tensor:
        """By numbers of these coordinates."""
        if len(classes) < 2:
            raise UserError("label_noise: a data set of one class has no wrong labels; leave label_noise out")
        may = self.changeable(targets, classes).nonzero().flatten()
        rows = may[permutation(hash_key(WHICH, *of), len(may))[: round(self.rate * len(may))]]
        drawn = uniform(hash_key(WHAT, *of), index[rows], 1)[0].double()
        noisy = targets.clone()
        noisy[rows] = self.change(targets[rows], drawn, classes)
        return noisy

    def told(self) -> dict[str, Any]:
        """What was asked for."""
        return {"rate": self.rate, "seed": self.seed}

    def changeable(self, targets: Tensor, classes: Sequence[str]) -> Tensor:
        """Which samples may be changed, bool (n,): all."""
        return torch.ones_like(targets, dtype=torch.bool)

    @abstractmethod
    def change(self, targets: Tensor, drawn: Tensor, classes: Sequence[str]) -> Tensor:
        """Labels for the chosen samples (m,), from their true labels (m,) and uniform numbers in [0, 1) (m,)."""


class Symmetric(LabelNoise):
    """Each of the other C - 1 classes with equal probability, never the true one: ``rate`` is what is wrong."""

    kind = "symmetric"

    def change(self, targets: Tensor, drawn: Tensor, classes: Sequence[str]) -> Tensor:
        """One of the classes that come after the true one, cyclically."""
        return (targets + 1 + (drawn * (len(classes) - 1)).long()) % len(classes)


class SymmetricInclusive(LabelNoise):
    """Each of the C classes with equal probability, the true one among them: about rate * (1 - 1/C) is wrong."""

    kind = "symmetric_inclusive"

    def change(self, targets: Tensor, drawn: Tensor, classes: Sequence[str]) -> Tensor:
        """Any class."""
        return (drawn * len(classes)).long()


class PairFlip(LabelNoise):
    """The next class, the first after the last (Han et al. 2018)."""

    kind = "pairflip"

    def change(self, targets: Tensor, drawn: Tensor, classes: Sequence[str]) -> Tensor:
        """The class after the true one."""
        return (targets + 1) % len(classes)


class Asymmetric(LabelNoise):
    """Classes are mistaken for similar ones (Patrini et al. 2017); ``rate`` is of the samples whose class is.

    Args:
        rate: share of those samples, in [0, 1].
        seed: of the noise alone.
        map: class -> the class it is mistaken for, by names or numbers; others keep their labels. None: the usual
            pairs of CIFAR-10; on CIFAR-100 the next class within the superclass.
        validation: as above.
    """

    kind = "asymmetric"

    def __init__(
        self,
        rate: float = 0.4,
        seed: int = 0,
        map: Mapping[str | int, str | int] | None = None,
        validation: str = "clean",
    ) -> None:
        super().__init__(rate, seed, validation)
        self.map = map

    def changeable(self, targets: Tensor, classes: Sequence[str]) -> Tensor:
        """Those whose class has a partner."""
        return self._partners(classes)[targets] != targets

    def change(self, targets: Tensor, drawn: Tensor, classes: Sequence[str]) -> Tensor:
        """The true class's partner."""
        return self._partners(classes)[targets]

    def _partners(self, classes: Sequence[str]) -> Tensor:
        """Each class's partner, itself if it has none: int64 (C,)."""
        pairs = usual_partners(classes) if self.map is None else self.map
        if not pairs:
            known = "which classes are mistaken for which is known of CIFAR-10 and CIFAR-100 only"
            raise UserError(f"label_noise=asymmetric: {known}; give label_noise.map='{{class: class}}'")
        partners = torch.arange(len(classes))
        for given, other in pairs.items():
            partners[_number(given, classes)] = _number(other, classes)
        return partners


def _number(name: str | int, classes: Sequence[str]) -> int:
    """A class's number by its name, or by its number if none has that name."""
    if str(name) in classes:
        return list(classes).index(str(name))
    if str(name).isdecimal() and int(name) < len(classes):
        return int(name)
    known = ", ".join(classes[:10]) + (", …" if len(classes) > 10 else "")
    raise UserError(f"label_noise.map: there is no class {name!r}; the classes are {known}")
