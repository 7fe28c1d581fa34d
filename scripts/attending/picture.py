"""Rates over lengths as one SVG: a panel for each mask, width and pass, a line for each side."""

import math

from genlab.report.markup import tag

__all__ = ["draw"]

WIDTH, HEIGHT, LEFT, TOP, FOOT, END = 300, 200, 44, 26, 168, 288
COLORS = ("#c0392b", "#2c6fbb", "#3a8f5d", "#8a63b8", "#c98a1b", "#555555")


def draw(panels, unit, columns=4):
    """panels: name -> side -> {length: value}, values > 0; unit: of the values. -> SVG as text."""
    sides = list(dict.fromkeys(side for panel in panels.values() for side in panel))
    colors = {side: COLORS[i % len(COLORS)] for i, side in enumerate(sides)}
    rows = -(-len(panels) // columns)
    size = (WIDTH * min(columns, len(panels)), HEIGHT * rows + 30)
    drawn = [_panel(panel, name, colors) for name, panel in panels.items()]
    placed = [
        tag("g", part, transform=f"translate({WIDTH * (i % columns)} {HEIGHT * (i // columns)})")
        for i, part in enumerate(drawn)
    ]
    legend, y = [tag("text", unit, x=LEFT, y=size[1] - 10)], size[1] - 10
    for i, (side, color) in enumerate(colors.items()):
        x = LEFT + 110 + 90 * i
        legend.append(tag("path", d=f"M{x} {y - 4}h16", stroke=color, stroke_width=2))
        legend.append(tag("text", side, x=x + 20, y=y))
    return tag(
        "svg",
        tag("rect", width=size[0], height=size[1], fill="white"),
        placed,
        legend,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {size[0]} {size[1]}",
        font_family="sans-serif",
        font_size=11,
    )


def _panel(panel, name, colors):
    lengths = sorted({n for line in panel.values() for n in line})
    most = max(value for line in panel.values() for value in line.values())
    step = _step(most)
    top = step * math.ceil(most / step)
    first, last = (math.log2(f(lengths)) for f in (min, max))

    def across(n):
        return LEFT + (math.log2(n) - first) / ((last - first) or 1) * (END - LEFT)

    def up(value):
        return FOOT + value / top * (TOP - FOOT)

    out = [tag("text", name, x=LEFT, y=TOP - 10, font_weight="bold")]
    for i in range(round(top / step) + 1):
        y = f"{up(i * step):.1f}"
        out.append(tag("line", x1=LEFT, x2=END, y1=y, y2=y, stroke="#dddddd"))
        out.append(tag("text", f"{i * step:g}", x=LEFT - 5, y=y, text_anchor="end", dy=4))
    for n in lengths:
        said = f"{n // 1024}k" if n % 1024 == 0 else str(n)
        out.append(tag("text", said, x=f"{across(n):.1f}", y=FOOT + 16, text_anchor="middle"))
    for side, line in panel.items():
        points = [(f"{across(n):.1f}", f"{up(value):.1f}") for n, value in sorted(line.items())]
        path = "M" + "L".join(" ".join(p) for p in points)
        out.append(tag("path", d=path, stroke=colors[side], stroke_width=2, fill="none"))
        out += [tag("circle", cx=x, cy=y, r=2.5, fill=colors[side]) for x, y in points]
    return out


def _step(most):
    """A round number that goes four times into this, about."""
    power = 10.0 ** math.floor(math.log10(most / 4))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= most / 5)
