"""The report and the documentation in a real browser, as wide as a desktop and as a phone."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from chromium import Browser, chromium
from fake_runs import fake_run

from gvr_lightning.report.cli import main

WIDTHS = (1280, 390)
LOOK = """(width => {
  const faults = document.querySelector('meta[name=viewport]') ? [] : ['as wide as on a desktop: no viewport'];
  const style = e => getComputedStyle(e).overflowX;
  const within = (e, kinds) => {
    for (let p = e.parentElement; p && p !== document.body; p = p.parentElement) if (kinds.includes(style(p))) return p;
  };
  const name = e => `${e.tagName} ${e.className} "${(e.textContent || e.alt || '').trim().slice(0, 40)}"`;
  if (document.documentElement.scrollWidth > width) faults.push(`the page is ${document.documentElement.scrollWidth}`);
  for (const image of document.images)
    if (!image.complete || !image.naturalWidth) faults.push(`missing: ${image.src.slice(0, 80)}`);
  for (const e of document.body.querySelectorAll('*')) {
    const box = e.getBoundingClientRect(), seen = box.width && box.height;
    if (seen && box.left < width && box.right > width + 1 && !within(e, ['auto', 'scroll', 'hidden', 'clip']))
      faults.push(`${Math.round(box.right)} wide: ${name(e)}`);
  }
  let scrolled = 0;
  for (const table of document.querySelectorAll('table')) {
    const outer = within(table, ['auto', 'scroll']);
    const room = (outer || table.parentElement).clientWidth;
    if (!room || table.scrollWidth <= room) continue;
    if (outer) outer.scrollLeft = 1e6;
    if (outer && outer.scrollLeft > 0) scrolled += 1; else faults.push(`does not scroll: ${name(table)}`);
  }
  return {faults, scrolled, images: document.images.length, tables: document.querySelectorAll('table').length};
})"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One for all pages and widths."""
    program = chromium()
    if program is None:
        pytest.skip("no Chromium is installed; on Debian: apt-get install chromium")
    try:
        one = Browser(program, tmp_path_factory.mktemp("profile"))
    except (OSError, EOFError) as error:
        pytest.skip(f"{program} does not start: {error}")
    with one:
        yield one


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a page with all there is: long labels and names, a run that failed, curves."""
    folder = tmp_path_factory.mktemp("runs")
    for i, method in enumerate(("none", "two_view", "gvr", "agr")):
        for seed in range(3):
            figures = {"test/acc": 0.8 + 0.01 * i + 0.001 * seed * i, "test/loss": 0.5, "test/ece": 0.1, "fid": 1.0}
            typed = {"overrides": ("regularizer.penalty.a_key_with_a_long_name=some-long-value",)} if i == 2 else {}
            fake_run(folder / f"{method}{seed}", method, seed, figures, **typed)
    fake_run(folder / ("a_folder_with_a_long_name_" * 4), summary={"status": "failed", "error": "an_error_" * 30})
    main([str(folder)])
    return (folder / "report" / "report.html").as_uri()


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    """The address of the documentation; its scripts ask for files, which file:// refuses."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def looked(browser: Browser, url: str) -> dict[int, dict[str, Any]]:
    """What is there at each width, and what is wrong with it."""
    found = {}
    browser.resize(WIDTHS[0])
    browser.open(url)
    for width in WIDTHS:
        browser.resize(width)
        found[width] = browser.value(f"{LOOK}({width})")
        found[width]["faults"] += browser.complaints
    return found


def test_the_report_is_whole_on_a_desktop_and_on_a_phone(browser: Browser, report: str) -> None:
    wide, narrow = looked(browser, report).values()
    assert wide["faults"] == narrow["faults"] == []
    assert wide["images"] >= 5 and wide["tables"] >= 6
    assert wide["scrolled"] == 0 and narrow["scrolled"] >= 3


def test_the_documentation_is_whole_on_a_desktop_and_on_a_phone(browser: Browser, served: str, site: Path) -> None:
    pages = [path.relative_to(site).as_posix() for path in sorted(site.rglob("*.html")) if path.stem != "404"]
    found = {page: looked(browser, f"{served}/{page}") for page in pages}
    assert {page: one for page, one in found.items() if any(at["faults"] for at in one.values())} == {}
    assert len(pages) > 10 and any(one[390]["scrolled"] for one in found.values())
    assert any(one[1280]["images"] for one in found.values())


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("<script>console.error('oh')</script>", "oh"),
        ("<script>nothing.there()</script>", "nothing is not defined"),
        ("<img src='nowhere.png' alt=''>", "missing: "),
        ("<div style='width: 500px'>x</div>", "500 wide: DIV"),
        ("<div style='overflow: hidden'><table style='width: 900px'><tr><td>x</table></div>", "does not scroll: TABLE"),
        ("<p>well</p>", ""),
    ],
)
def test_what_is_wrong_with_a_page_is_seen(browser: Browser, body: str, fault: str, tmp_path: Path) -> None:
    page = f"<!DOCTYPE html><meta name='viewport' content='width=device-width'><body style='margin: 0'>{body}"
    (tmp_path / "a.html").write_text(page)
    found = " ".join(looked(browser, (tmp_path / "a.html").as_uri())[390]["faults"])
    assert (fault in found) if fault else found == ""


def test_a_browser_is_found_by_any_of_its_names_and_one_that_does_not_start_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        assert chromium() is None
        (tmp_path / "google-chrome").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "google-chrome").chmod(0o755)
        program = chromium()
    assert program == str(tmp_path / "google-chrome")
    with pytest.raises((EOFError, OSError)):
        Browser(program, tmp_path / "profile")
