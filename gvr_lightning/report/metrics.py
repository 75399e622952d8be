"""What a metric is called on the page, how its values are written, and which direction is better."""

from dataclasses import dataclass

NONE = "\u2013"  # where there is no value
# by task, the first that is there
DEFAULTS = {"classification": ("test/acc", "test/loss"), "ddpm": ("fid", "test/loss")}
SCORES = ("fid", "is/mean", "is/std", "raw/fid", "raw/is/mean", "real/fid", "real/is/mean")  # generated, and real
# is better, by a name's last part
HIGHER = ("acc", "top5", "balanced_acc", "acc_best", "acc_corrupted")
LOWER = ("loss", "fid", "ece", "nll", "nll_scaled", "ece_scaled", "loss_best", "nll_corrupted")
BY_KIND = "test/acc_corrupted/"  # before the kind of corruption
SHARES = (*HIGHER, "acc_clean", "acc_noisy", "acc_noisy_true", "view_agreement")  # fractions, shown in percent
WORDS = {
    "test/acc": "test accuracy",
    "val/acc": "validation accuracy",
    "test/loss": "test loss",
    "val/loss": "validation loss",
    "test/top5": "top-5 accuracy",
    "test/ece": "calibration error",
    "test/balanced_acc": "balanced accuracy",
    "test/nll": "negative log-likelihood",
    "test/nll_scaled": "negative log-likelihood, temperature scaled",
    "test/ece_scaled": "calibration error, temperature scaled",
    "test/acc_corrupted": "accuracy under corruption",
    "test/nll_corrupted": "negative log-likelihood under corruption",
    "fid": "FID",
    "is/mean": "inception score",
    "is/std": "inception score, deviation of the splits",
    "raw/fid": "FID, raw weights",
    "raw/is/mean": "inception score, raw weights",
    "train/penalty": "penalty",
    "train/total": "loss that is minimised",
    "train/view_agreement": "agreement of the views",
    "train/acc_clean": "accuracy, right labels",
    "train/acc_noisy": "wrong labels memorised",
    "train/acc_noisy_true": "wrong labels corrected",
    "real/fid": "FID of real images",
    "real/is/mean": "inception score of real images",
}
EXPLAINED = {  # further words under a figure
    "train/penalty": "The regularizer's penalty, without its weight.",
    "train/total": "The views' losses, added or averaged, and the weighted penalty, on training images.",
    "train/view_agreement": "How often the views of a training image get one label.",
    "train/acc_clean": "Training images whose label is right.",
    "train/acc_noisy": "Training images whose label is wrong: how often that wrong label is predicted.",
    "train/acc_noisy_true": "Training images whose label is wrong: how often the true label is predicted.",
}


@dataclass(frozen=True)
class Metric:
    """One of the figures in summary.json."""

    name: str

    @property
    def _last(self) -> str:
        return "acc_corrupted" if self.name.startswith(BY_KIND) else self.name.rpartition("/")[2]

    @property
    def percent(self) -> bool:
        """Whether it is a fraction that is shown in percent."""
        return self._last in SHARES

    @property
    def of_test_images(self) -> bool:
        """Whether it is a share of the test images."""
        return self.name in ("test/acc", "test/top5")

    @property
    def direction(self) -> int:
        """1 if higher is better, -1 if lower is, 0 if that is not known or makes no sense."""
        if self._last in LOWER and not self.name.startswith("real/"):
            return -1
        return 1 if self._last in HIGHER or self.name in ("is/mean", "raw/is/mean") else 0

    @property
    def words(self) -> str:
        """Its name for readers."""
        if self.name.startswith(BY_KIND):
            return f"accuracy, {self.name.removeprefix(BY_KIND).replace('_', ' ')}"
        return WORDS.get(self.name, self.name)

    @property
    def capitalized(self) -> str:
        """Its name at the beginning of a sentence."""
        return f"{self.words[0].upper()}{self.words[1:]}"

    @property
    def unit(self) -> str:
        """What stands behind its name in a heading."""
        return " (%)" if self.percent else ""

    @property
    def heading(self) -> str:
        """Its name with its unit."""
        return f"{self.words}{self.unit}"

    @property
    def scale(self) -> float:
        """What a value is multiplied with for the page."""
        return 100.0 if self.percent else 1.0

    def text(self, value: float | None) -> str:
        """Percent with two decimals, anything else with four significant digits."""
        if value is None:
            return NONE
        return f"{100 * value:.2f}" if self.percent else number(value)

    def difference(self, value: float | None) -> str:
        """Likewise, with its sign; of percentages in percentage points."""
        if value is None:
            return NONE
        return f"{100 * value:+.2f}" if self.percent else f"{'+' if value >= 0 else ''}{number(value)}"


def number(value: float) -> str:
    """Four significant digits; whole numbers from 10,000 on."""
    return f"{value:,.0f}" if abs(value) >= 9999.5 else f"{value:#.4g}".rstrip(".")


def p_value(p: float | None) -> str:
    """Two significant digits down to 0.001."""
    if p is None:
        return NONE
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
