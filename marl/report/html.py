"""The page as one file: markup, style, program and data, and a policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "page"
SCRIPTS = (
    "dom.js",
    "charts.js",
    "tables.js",
    "picture.js",
    "gif.js",
    "replay.js",
    "page.js",
)  # in the order in which they run
SEAT_SCRIPTS = ("dom.js", "seat.js")  # of a page in which a person plays (marl/seat)
ESCAPES = {ord(one): f"\\u{ord(one):04x}" for one in "<>&\u2028\u2029"}


def page(content: dict[str, Any] | None, title: str, scripts: tuple[str, ...] = SCRIPTS) -> str:
    """The whole page. Without content it asks the server that it comes from for it, again and again."""
    script, style = _script(scripts), _file("page.css")
    rules = [
        "default-src 'none'",
        f"script-src {_hash(script)}",
        f"style-src {_hash(style)}",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        *(["connect-src 'self'"] if content is None else []),
    ]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{"; ".join(rules)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            '<link rel="icon" href="data:,">',
            f"<title>{html.escape(title)}</title>",
            f"<style>{style}</style>",
            "</head>",
            "<body>",
            "<noscript>This page draws its numbers with JavaScript, which is switched off here.</noscript>",
            f'<script type="application/json" id="content">{as_json(content)}</script>',
            f"<script>{script}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def as_json(content: dict[str, Any] | None) -> str:
    """JSON that ends no element and begins none, wherever it stands in a page."""
    return json.dumps(content, allow_nan=False, separators=(",", ":"), ensure_ascii=True).translate(ESCAPES)


@cache
def _file(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


@cache
def _script(scripts: tuple[str, ...]) -> str:
    return "\n".join(_file(name) for name in scripts)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
