"""A hook of mkdocs: formulas become MathML while the site is built, which browsers show without a script."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(?:span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</(?:span|div)>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    r"""Replace what arithmatex marked, ``\(...\)`` in a line and ``\[...\]`` on one of its own."""
    return FORMULA.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    display = {"(": "inline", "[": "block"}[found[1]]
    return convert(html.unescape(found[2]).strip(), display=display)
