"""What the README shows runs as it stands there; its commands are checked in test_docs.py."""

from pathlib import Path

from prose import blocks, links, run_python

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_readme_s_python_runs(tmp_path: Path) -> None:
    assert len(blocks(README, "python")) == 2
    loss = run_python(README, tmp_path)["loss"]
    assert loss.penalty > 0 and len(loss.losses) == 2  # type: ignore[attr-defined]


def test_every_regularizer_is_in_the_table() -> None:
    for path in (ROOT / "conf" / "regularizer").glob("*.yaml"):
        assert f"`{path.stem}`" in README, path.stem


def test_the_links_lead_somewhere() -> None:
    assert links(README)
    for target in links(README):
        assert (ROOT / target).exists(), target
