"""HTML and SVG as nested function calls in which all text is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable

__all__ = ["Child", "Markup", "raw", "tag"]

VOID = frozenset({"br", "hr", "img", "input", "line", "link", "meta", "path", "rect", "circle"})
Child = object
"""A Markup, None (nothing), an iterable of children, or anything else as escaped text."""


class Markup(str):
    """Text that is already HTML; only `tag` and `raw` make it."""

    __slots__ = ()


def raw(text: str) -> Markup:
    """Text of genlab itself that goes in as it is (style sheet, script)."""
    return Markup(text)


def tag(name: str, /, *children: Child, **attributes: object) -> Markup:
    """One element.

    Attributes: `class_` is class, other underscores are hyphens; True stands alone, None and
    False are left out. Everything that is not Markup is escaped.
    """
    parts = [name]
    for key, value in attributes.items():
        word = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(word)
        elif value is not None and value is not False:
            parts.append(f'{word}="{html.escape(str(value), quote=True)}"')
    opening = "<" + " ".join(parts) + ">"
    if name in VOID:
        return Markup(
            opening if name in ("br", "hr", "img", "input", "meta") else opening[:-1] + "/>"
        )
    return Markup(f"{opening}{_inside(children)}</{name}>")


def _inside(children: Iterable[Child]) -> str:
    parts: list[str] = []
    for child in children:
        if isinstance(child, Markup):
            parts.append(child)
        elif isinstance(child, (list, tuple)):
            parts.append(_inside(child))
        elif child is not None:
            parts.append(html.escape(str(child)))
    return "".join(parts)
