"""What the README shows runs as it stands there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_readme_s_python_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, object] = {}
    exec("".join(blocks), names)
    loss = names["loss"]
    assert loss.penalty > 0 and len(loss.losses) == 2  # type: ignore[attr-defined]


def test_every_regularizer_is_in_the_table() -> None:
    for path in (ROOT / "conf" / "regularizer").glob("*.yaml"):
        assert f"`{path.stem}`" in README, path.stem


def test_the_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target
