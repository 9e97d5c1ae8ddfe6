"""The page is whole, closed, escaped, and needs nothing from elsewhere."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import example as with_example
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.evaluation.page import Bar, Chart, page
from attar.evaluation.tables import Column, Kept, Table

VOID = {"meta"}
SHAPES = {"rect"}


class Checker(HTMLParser):
    """Collects text and tags, and fails on a tag that is closed in the wrong place."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.texts, self.attributes = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def parsed(document):
    checker = Checker()
    checker.feed(document)
    checker.close()
    assert checker.open == []
    return checker


def example(text="fc1", verdict="SMALLER 9.0x (9 kB to 1 kB)"):
    table = Table(text, (Column(text), Column("left", "kept")), ((text, Kept(0.25)), ("total", None)), (text,))
    return page(text, verdict, tables=[table, table], charts=[Chart(text, (Bar(text, 100), Bar("b", 0)))], facts={text: text}, notes=[text])


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1))
@with_example("<b>bold</b> & \"quoted\" 'text' (<i>)")
def test_any_text_is_shown_as_text(text):
    plain, odd = parsed(example()), parsed(example(text, text))
    assert [t for t in odd.tags if t != "title"] == [t for t in plain.tags if t != "title"]
    assert text in "".join(odd.texts)


def test_nothing_comes_from_elsewhere_and_nothing_runs():
    checker = parsed(example())
    assert not {"script", "link", "img", "iframe", "object"} & set(checker.tags)
    assert not [a for a in checker.attributes if a[0] in ("src", "href") or a[0].startswith("on")]
    assert re.findall(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", example()) == []


def test_verdict_is_the_first_thing_after_the_title():
    body = example().split("<body>")[1]
    assert body.index("SMALLER 9.0x") < body.index("<section>")


@pytest.mark.parametrize(
    ("verdict", "tone"),
    [
        ("SMALLER 2x", "gain"),
        ("FASTER 2x", "gain"),
        ("NO GAIN (a)", "even"),
        ("WORSE in x", "loss"),
        ("SLOWER 2x", "loss"),
        ("LARGER 2x", "loss"),
    ],
)
def test_tone(verdict, tone):
    assert f'class="verdict {tone}"' in page("t", verdict)


def test_bars_are_in_proportion():
    widths = [
        float(w) for w in re.findall(r'<rect [^>]*width="([\d.]+)"', page("t", "v", charts=[Chart("c", (Bar("a", 300), Bar("b", 100)))]))
    ]
    assert widths[0] == pytest.approx(3 * widths[1], abs=0.2)


def test_light_dark_and_print():
    document = example()
    assert "prefers-color-scheme: dark" in document
    assert "@media print" in document


def test_a_page_of_nothing_but_a_verdict():
    assert "<section>" not in page("t", "NO GAIN")
