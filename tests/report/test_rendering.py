import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from charter.report import build_page, read_run, render

HOSTILE = "</blockquote><script>alert('x')</script><img src=x onerror=alert(1)>{{ 7*7 }}"


class Seen(HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def html(run):
    return render(build_page(read_run(run)))


def replace_in(path, old, new):
    path.write_text(path.read_text().replace(old, json.dumps(new)[1:-1]))


def test_nothing_is_asked_of_the_network(run):
    found = Seen(html(run))
    loading = {"src", "srcset", "poster", "data", "action", "background"}
    assert not [tag for tag, attrs in found.tags if loading & attrs.keys()]
    assert {tag for tag, _ in found.tags}.isdisjoint(
        {"script", "link", "iframe", "object", "embed", "base", "form", "img", "video", "audio"}
    )
    links = [attrs["href"] for _, attrs in found.tags if "href" in attrs]
    assert links
    assert all(link.startswith("#") for link in links)
    style = re.search(r"<style>(.*?)</style>", html(run), re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_forbids_all_but_the_pages_own_style(run):
    text = html(run)
    (policy,) = [
        attrs["content"]
        for tag, attrs in Seen(text).tags
        if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert f"style-src 'sha256-{digest}';" in policy
    assert "unsafe" not in policy
    assert not [tag for tag, attrs in Seen(text).tags if "style" in attrs]


@pytest.mark.parametrize(
    ("file", "old"),
    [
        ("data/answers.jsonl", "Sure, what is your SSN?"),
        ("data/answers.jsonl", "harmful-3"),
        ("data/heldout.jsonl", "verify me 3"),
        ("models/rl/training.json", "the score fell"),
        ("manifest.json", "overlong"),
        ("manifest.json", "2.13.0"),
        ("metrics/compare.json", "JudgementError"),
    ],
)
def test_hostile_text_stays_text(run, file, old):
    before = [tag for tag, _ in Seen(html(run)).tags]
    replace_in(run / file, old, HOSTILE)
    after = html(run)
    assert "&lt;script&gt;" in after
    assert {tag for tag, _ in Seen(after).tags} <= {*before}
    assert "{{ 7*7 }}" in after
    assert not [attrs for _, attrs in Seen(after).tags if any(key[:2] == "on" for key in attrs)]


def test_hostile_rules_stay_text(run):
    rules = run / "constitution.yaml"
    rules.write_text(rules.read_text().replace("Never ask for an SSN.", json.dumps(HOSTILE))
                     .replace("name: shop", f"name: {json.dumps(HOSTILE)}"))  # fmt: skip
    text = html(run)
    assert "<script" not in text
    assert "&lt;script&gt;" in text.partition("<body>")[0]


def test_hostile_columns_stay_text_in_pictures_and_labels(run):
    found = json.loads((run / "evaluation.json").read_text())
    found["comparisons"][0]["second"] = HOSTILE
    found["models"][f'"{HOSTILE}'] = found["models"]["base"]
    (run / "evaluation.json").write_text(json.dumps(found))
    assert {"script", "img"}.isdisjoint(tag for tag, _ in Seen(html(run)).tags)


def test_control_characters_and_direction_marks_are_shown(run):
    replace_in(run / "data" / "heldout.jsonl", "verify me 3", "a\x1b[2Jb\u202ec\x00")
    text = html(run)
    assert "a\ufffd[2Jb\ufffdc\ufffd" in text
    assert {"\x1b", "\u202e", "\x00"}.isdisjoint(text)


def test_every_picture_says_what_it_shows_or_stands_beside_its_number(run):
    for tag, attrs in Seen(html(run)).tags:
        if tag == "svg":
            is_told = attrs.get("role") == "img" and attrs.get("aria-label")
            assert is_told or attrs.get("aria-hidden") == "true"


def test_cells_have_headers(run):
    tags = Seen(html(run)).tags
    assert {attrs["scope"] for tag, attrs in tags if tag == "th"} == {"col", "row", "rowgroup"}
    assert sum(tag == "table" for tag, _ in tags) == sum(tag == "caption" for tag, _ in tags)


def test_anchors_lead_somewhere(run):
    tags = Seen(html(run)).tags
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"][1:] for _, attrs in tags if "href" in attrs} <= set(ids)
