"""The frame of a page that asks nothing of the network, and what its sections share."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from pathlib import Path

from genlab.core.files import write_text
from genlab.report.markup import Child, Markup, raw, tag

__all__ = [
    "document",
    "folded",
    "html_table",
    "left_out",
    "problems_section",
    "section",
    "small",
    "terms",
    "write_page",
]


def document(
    title: str,
    made_by: str,
    *body: object,
    stylesheets: Iterable[str],
    scripts: Iterable[str],
) -> str:
    """A whole HTML file with its style and script inside; the foot names what wrote it, and when.

    The page forbids itself network, foreign scripts and any picture that is not part of it.
    """
    style, program = map(_joined, (stylesheets, scripts))
    digest = base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    policy += f"script-src 'sha256-{digest}'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", raw(style)),
    )
    when = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    foot = tag("footer", f"{made_by} · written {when}")
    inside = tag("body", tag("main", *body), foot, tag("script", raw(program)))
    return f"<!doctype html>\n{tag('html', head, inside, lang='en')}\n"


def write_page(target: Path, page: str) -> Path:
    """Writes a page whole or not at all; DiskError if it cannot. Returns its path."""
    write_text(target, page.encode("utf-8", "replace").decode())  # names of files may be no text
    return target


def _joined(names: Iterable[str]) -> str:
    """Files of this folder one after the other."""
    folder = Path(__file__).parent
    return "".join((folder / name).read_text(encoding="utf-8") for name in names)


def section(ident: str, title: str, *children: object) -> Markup:
    """A section under a heading that names it."""
    named = f"{ident}-title"
    return tag("section", tag("h2", title, id=named), *children, id=ident, aria_labelledby=named)


def terms(rows: Iterable[tuple[object, object]], class_: str = "made") -> Markup:
    """(term, what it is) as a definition list."""
    cells = [tag("div", tag("dt", term), tag("dd", words)) for term, words in rows]
    return tag("dl", cells, class_=class_)


def html_table(heads: Iterable[object], *bodies: Child, **attributes: object) -> Markup:
    """A table with one row of column heads; a body is its rows or a `tbody` of its own."""
    head = tag("tr", *(tag("th", h, scope="col") for h in heads))
    return tag("table", tag("thead", head), *bodies, **attributes)


def small(words: str | None, class_: str | None = None) -> Markup | None:
    """A remark; None where there are no words."""
    return tag("small", words, class_=class_) if words else None


def folded(words: str, *children: Child) -> Markup:
    """What is shown when somebody opens it."""
    return tag("details", tag("summary", words), *children)


def left_out(n: int, words: str, class_: str = "hint") -> Markup | None:
    """A sentence with {} for how many are not in the page; None where all are."""
    return tag("p", words.format(n), class_=class_) if n > 0 else None


def problems_section(problems: Iterable[Child]) -> Markup | None:
    """What could not be read; None where all could."""
    items = [tag("li", problem) for problem in islice(problems, 50)]
    if not items:
        return None
    return section("problems", "Not readable", tag("ul", items, class_="problems"))
