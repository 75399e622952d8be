"""The installed wheel works on its own, in another folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from runs import TINY, TINY_CNN

ROOT = Path(__file__).parents[1]
ENTRY = """
from gvr_lightning.app.train import main
from gvr_lightning.config.folder import conf_folder
print(conf_folder())
main()
"""


def test_the_wheel_trains(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    built = subprocess.run(build, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        names = archive.namelist()
    assert {"gvr_lightning/conf/config.yaml", "gvr_lightning/py.typed"} <= set(names)
    assert not any(n.startswith(("tests", "experiments")) for n in names)
    (metadata,) = site.glob("*.dist-info")
    entries = (metadata / "entry_points.txt").read_text()
    assert (
        "gvr-train = gvr_lightning.app.train:main" in entries
        and "gvr-export = gvr_lightning.app.export:main" in entries
        and "gvr-predict = gvr_lightning.app.predict:main" in entries
        and "gvr-report = gvr_lightning.report.cli:main" in entries
        and "gvr-study = gvr_lightning.study.cli:main" in entries
    )
    command = [sys.executable, "-c", ENTRY, "regularizer=gvr", "alpha=0.01", *TINY, *TINY_CNN]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert Path(lines[0]) == site / "gvr_lightning" / "conf"
    assert (Path(lines[-1]) / "summary.json").exists()
    report = [sys.executable, "-m", "gvr_lightning.report.cli", "outputs"]  # its templates are in the wheel
    done = subprocess.run(report, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / done.stdout.splitlines()[-1]).read_text().startswith("<!DOCTYPE html>")
