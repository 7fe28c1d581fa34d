"""Links and paths in the documents lead to files that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("outputs/*.md")])
MODELS = ("huber", "rsgan", "v_prediction")
INVENTED = {"genlab/model/huber.py", *(f"configs/model/{m}.yaml" for m in MODELS)}
"""Files that the examples of CONTRIBUTING.md make."""


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_and_paths_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)", text)
    for target, anchor in links:
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings]
            assert anchor[1:] in slugs, f"{target}{anchor}"
    named = re.findall(r"\b(?:genlab|configs|scripts|tests|docs)/[\w/.-]*\w\.[a-z]+\b", text)
    assert [n for n in named if n not in INVENTED and not (ROOT / n).exists()] == []
