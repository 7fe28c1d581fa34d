"""A run directory that has everything, written by hand, and a page as a browser would see it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from genlab.report.report import write_report
from genlab.run import pictures

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>"
CONFIG = """\
seed: 0
model: {name: gan, classes: auto}
network: {generator: {name: dcgan_generator, width: 64}}
optimizer: {name: adamw, lr: 0.0003, betas: [0.5, 0.9]}
schedule: {name: constant, images: 4000}
"""
FEATURES = {"images": 2000, "reference": "digits train 8x8x1", "reference_images": 1500,
            "reference_digest": "4be1c0a07d55", "features": "inception",
            "features_digest": "7ff4a85c3a63", "resizer": "bilinear to 299"}  # fmt: skip
EXPECTED = {
    "metric": "fid",
    "value": 13.0,
    "tolerance": 1.5,
    "images": 4000,
    "protocol": "FID of 2,000 samples by Inception features against the train split",
    "source": "Somebody et al. 2024, table 3",
}


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.close()
        assert self.open == []  # every element is closed, in order

    def handle_starttag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attrs)))
        if name not in ("meta", "img", "br", "hr", "input"):
            self.open.append(name)

    def handle_startendtag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attrs)))

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [a for n, a in self.elements if n == name]

    def assert_harmless(self) -> None:
        """Nothing is asked of the network, and no script runs but the one its policy names."""
        for name, attributes in self.elements:
            for key, value in attributes.items():
                assert not key.startswith("on"), (name, key)
                if key in ("src", "href", "srcset", "action", "data"):
                    assert str(value).startswith("data:image/"), (name, key)
        assert "url(" not in self.html and "@import" not in self.html
        (script,) = re.findall(r"<script>(.*?)</script>", self.html, re.DOTALL)
        assert len(self.all("script")) == 1
        (policy,) = [str(a["content"]) for a in self.all("meta") if "http-equiv" in a]
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert policy.startswith("default-src 'none'") and f"'sha256-{digest}'" in policy


def grid(level: int) -> Any:
    return pictures.grid(np.full((4, 1, 8, 8), level, np.uint8))


def whole(parent: Path) -> Path:
    """A finished run of 4,000 images with three grids and a hundred log lines."""
    folder = parent / "gan-digits" / "20260102-030405-abc123"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG + "data: {name: digits}\n")
    (folder / "overrides.txt").write_text("optimizer.lr=3e-4\ndata.root=/a b\n")
    who = {"optimizer.lr": "command line", "model": "model/gan.yaml"}
    (folder / "provenance.json").write_text(json.dumps(who))
    facts = {"genlab": "0.1.0", "torch": "2.13", "parameters": {"generator": 1_500_000}}
    (folder / "environment.json").write_text(json.dumps(facts))
    rows = [
        {"step": i, "images": 40 * i, "seconds": i / 2, "loss/g": 1 + 1 / i, "loss/d": 0.5,
         "lr/g": 3e-4, "images_per_second": 80.0}
        for i in range(1, 101)
    ]  # fmt: skip
    write_journal(folder, rows)
    (folder / "checkpoints" / "latest").write_text("000000004000\n")
    (folder / "STATUS").write_text("done\n")
    for i in range(3):
        pictures.save(grid(80 * i), folder / "samples" / "train" / f"{2000 * i:012d}.png")
    return folder


def write_journal(run: Path, rows: list[dict[str, Any]]) -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def metric(values: dict[str, float | None], **protocol: Any) -> dict[str, Any]:
    """What a result holds of a metric; its first value is better when low."""
    return {"values": values, "better": {next(iter(values)): "low"}, "protocol": protocol,
            "seconds": 3.2}  # fmt: skip


def result(metrics: dict[str, Any], **subject: Any) -> dict[str, Any]:
    """The content of a result.json."""
    of = {"run": "gan-digits/20260102-030405-abc123", "of": "samples", "checkpoint": 4000,
          "weights": "ema", "sampler": {"name": "heun", "steps": 18}, "evaluations": 70,
          "guidance": {"name": "cfg", "scale": 2}, "temperature": None, "seed": 0}  # fmt: skip
    return {"format": 1, "when": "2026-01-02T04:00:00+00:00", "subject": of | subject,
            "metrics": metrics, "environment": {"genlab": "0.3.0", "code": "141dd3a"}}  # fmt: skip


def evaluate(run: Path, name: str, content: Any) -> Path:
    """Writes one evaluation; returns its folder."""
    folder = run / "eval" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(content))
    return folder


def expect(run: Path, **changes: Any) -> None:
    """Adds an expected result to the config."""
    expected = {k: v for k, v in {**EXPECTED, **changes}.items() if v is not None}
    text = f"{CONFIG}data: {{name: digits}}\npromise: {json.dumps(expected)}\n"
    (run / "config.yaml").write_text(text)


def everything(parent: Path) -> Path:
    """A run with samples, metric curves, three evaluations, nearest pairs, an expected result."""
    run = whole(parent)
    expect(run)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for i, row in enumerate(rows[19::20], 1):
        kid = 0.02 / i
        row |= {"metric/fid": 60 / i, "metric/fid_bias": 3.0, "metric/kid": kid,
                "metric/kid_low": 0.8 * kid, "metric/kid_high": 1.2 * kid}  # fmt: skip
    write_journal(run, rows)
    pictures.save(grid(120), run / "samples" / "drawn" / "grid.png")
    pictures.save(grid(60), run / "samples" / "older" / "grid.png")
    nearest = metric({"nearest": 0.31, "nearest_ratio": 0.97, "nearest_closer": 0.53}, images=2000)
    nearest |= {"better": {}, "captions": [f"distance 0.1{i}: sample {i}" for i in range(5)]}
    newest = result(
        {
            "fid": metric({"fid": 14.21, "fid_bias": 3.12}, **FEATURES, infinity=False),
            "kid": metric({"kid": 0.0041, "kid_low": 0.0033, "kid_high": 0.0049}, **FEATURES,
                          subsets=100, size=1000),
            "is": metric({"is": None}, images=2000, features="inception", splits=10),
            "nearest": nearest,
        }
    )  # fmt: skip
    folder = evaluate(run, "000000004000-a1b2c3", newest)
    for i in range(5):
        pictures.save(grid(40 * i), folder / "nearest" / f"{i:02d}.png")
    unguided = result({"fid": metric({"fid": 21.5}, **FEATURES)}, guidance={"name": "none"})
    evaluate(run, "000000004000-ffffff", unguided | {"when": "2026-01-02T03:30:00+00:00"})
    evaluate(run, "training", unguided | {"when": "2026-01-02T03:10:00+00:00"})
    return run


def section(run: Path, ident: str) -> str:
    """One section of the report as text without its tags, spaces made single."""
    html = write_report(run).read_text()
    assert html.count(f'<section id="{ident}"') <= 1
    inside = html.partition(f'<section id="{ident}"')[2].partition("</section>")[0]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", inside.partition(">")[2])).strip()


def rows(run: Path) -> list[list[list[str]]]:
    """Of each evaluation's table: the rows, as the texts of their cells."""
    html = write_report(run).read_text()
    tables = re.findall(r'<table class="numbers">(.*?)</table>', html, re.DOTALL)
    cells = r"<t[hd][^>]*>(.*?)</t[hd]>"
    words = [
        [[re.sub(r"(<[^>]*>)+", " ", c).strip() for c in re.findall(cells, row, re.DOTALL)]
         for row in re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.DOTALL)]
        for table in tables
    ]  # fmt: skip
    return words
