"""What notebooks show of objects: small tables and pictures, as HTML in which every text is escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

MOST_ROWS = 30  # of one table


def html_table(title: str, rows: Iterable[Sequence[object]], head: Sequence[str] = ()) -> str:
    """A table: a title, names of columns, and rows whose first cell names them; floats have two digits."""
    body = list(rows)
    lines = [f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>"] if head else []
    lines += ["<tr>" + "".join(f"<td>{escape(_text(cell))}</td>" for cell in row) + "</tr>" for row in body[:MOST_ROWS]]
    if len(body) > MOST_ROWS:
        lines.append(f"<tr><td>and {len(body) - MOST_ROWS:,} more</td></tr>")
    return f"<table><caption>{escape(title)}</caption>{''.join(lines)}</table>"


def html_image(picture: bytes, kind: str, words: str) -> str:
    """A picture of some kind, such as ``gif``, with words below it."""
    data = base64.b64encode(picture).decode()
    return f'<figure><img src="data:image/{kind};base64,{data}"><figcaption>{escape(words)}</figcaption></figure>'


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:,.2f}"
    return f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell)
