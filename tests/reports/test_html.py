"""A report shows what it is given, as text, and loads nothing."""

import html.parser
import re

import pytest

from rlft_jax.reports.html import Answer, Comparison, Figure, Table, write_report
from rlft_jax.reports.svg import Chart

HOSTILE = (
    "</pre><script>alert('x')</script><img src=http://example.com/a.png onerror=x> \0 \ud800 & é"
)
VOID = {"meta"}


class Reader(html.parser.HTMLParser):
    """Collects tags, attributes and text, and checks that what opens closes."""

    def __init__(self, page):
        super().__init__()
        self.opened, self.tags, self.attributes, self.texts = [], set(), [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        self.opened += [] if tag in VOID else [tag]

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def page(tmp_path):
    write_report(
        tmp_path / "new" / "report.html",
        title=HOSTILE,
        subtitle=HOSTILE,
        figures=[Figure(HOSTILE, "21%", HOSTILE)],
        tables=[Table(HOSTILE, ["", HOSTILE], [[HOSTILE, "0.5 [0.4, 0.6]"]], HOSTILE)],
        charts=[Chart(HOSTILE, HOSTILE, HOSTILE, {HOSTILE: [(1, 2.0)], "b": [(1, 3.0), (2, 1.0)]})],
        comparisons=[
            Comparison(HOSTILE, {"before": Answer(HOSTILE, False), "after": Answer("6*7", True)})
        ],
        summary={HOSTILE: HOSTILE},
    )
    return (tmp_path / "new" / "report.html").read_text(encoding="utf-8")


def test_every_tag_is_ours_and_is_closed(page):
    reader = Reader(page)
    assert reader.opened == []
    assert not reader.tags & {"script", "img", "link", "iframe", "object", "a"}


def test_nothing_is_loaded_from_anywhere(page):
    names = {name for name, _ in Reader(page).attributes}
    assert not names & {"src", "href", "onerror", "srcset", "xlink:href"}
    assert not re.search(r"url\(|@import", page)
    assert "default-src 'none'" in page


def test_completions_stand_beside_each_other_with_their_marks(page):
    texts = [text.strip() for text in Reader(page).texts]
    before, after = texts.index("before"), texts.index("after")
    assert texts[before + 1] == "✗ not correct"
    assert texts[after + 1 : after + 3] == ["✓ correct", "6*7"]


def test_hostile_text_is_shown_as_it_is_but_for_characters_no_page_may_hold(page):
    shown = "".join(Reader(page).texts)
    assert HOSTILE.replace("\0", "\ufffd").replace("\ud800", "\ufffd") in shown


def test_sections_without_content_leave_no_heading(tmp_path):
    write_report(tmp_path / "report.html", title="empty")
    page = (tmp_path / "report.html").read_text()
    assert "Curves" not in page
    assert "Samples" not in page


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(TypeError):
        write_report(path, title="new", summary={"not": object()})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
