"""A report of a run as one HTML file: no scripts, nothing loaded from elsewhere, light and dark.

Whatever comes from data or models is escaped: a completion is text, never markup.
"""

import json
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from rlft_jax.files import written_whole
from rlft_jax.reports.svg import Chart, svg


class Figure(NamedTuple):
    """A number worth a headline, and what goes with it in small print."""

    label: str
    value: str
    detail: str = ""


class Table(NamedTuple):
    """Rows of text; the first column is names, the others are figures."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


class Answer(NamedTuple):
    """A completion and whether it solves its problem."""

    text: str
    is_correct: bool


class Comparison(NamedTuple):
    """What was answered to one prompt, by name of who answered: before and after training."""

    prompt: str
    answers: Mapping[str, Answer]


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    subtitle: str = "",
    figures: Sequence[Figure] = (),
    tables: Sequence[Table] = (),
    charts: Sequence[Chart] = (),
    comparisons: Sequence[Comparison] = (),
    summary: Mapping[str, Any] | None = None,
) -> None:
    """Writes a report, or leaves the one of before if it cannot.

    Args:
        path: Where to.
        title: What was done.
        subtitle: A sentence on how.
        figures: The results in a few numbers.
        tables: The results in all.
        charts: How it went.
        comparisons: Completions side by side, with a mark for right and wrong.
        summary: All else, shown as JSON to unfold: configuration, versions, specs.
    """
    page = _page(title, [
        f"<header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header>",
        _section("", 'class="figures"', map(_figure, figures)),
        *(_section(table.title, 'class="scroll"', [_table(table)]) for table in tables),
        _section("Curves", 'class="charts"', map(_chart, charts)),
        _section("Samples", 'class="samples"', map(_comparison, comparisons)),
        _summary(summary),
    ])  # fmt: skip
    with written_whole(path) as file:
        file.write(printable(page))


def printable(page: str) -> str:
    """Puts U+FFFD for control characters and half characters, which no page can hold."""
    is_shown = lambda c: c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs")
    return "".join(c if is_shown(c) else "\ufffd" for c in page)


def _page(title: str, sections: Iterable[str]) -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{"".join(sections)}
</main>
</body>
</html>
"""


def _section(heading: str, attributes: str, parts: Iterable[str]) -> str:
    """A section of the page; nothing if it would be empty."""
    content = "\n".join(parts)
    named = f"<h2>{escape(heading)}</h2>" if heading else ""
    return f"<section>{named}<div {attributes}>{content}</div></section>\n" if content else ""


def _figure(figure: Figure) -> str:
    return (
        f'<div class="figure"><span class="label">{escape(figure.label)}</span>'
        f'<span class="value">{escape(figure.value)}</span>'
        f'<span class="detail">{escape(figure.detail)}</span></div>'
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in row)}</tr>" for row in table.rows
    )
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _chart(chart: Chart) -> str:
    names = enumerate(chart.series) if len(chart.series) > 1 else ()
    legend = "".join(f'<span class="key s{i % 4}">{escape(name)}</span>' for i, name in names)
    return f"<figure><figcaption>{escape(chart.title)} {legend}</figcaption>{svg(chart)}</figure>"


def _comparison(comparison: Comparison) -> str:
    answers = "".join(_answer(who, answer) for who, answer in comparison.answers.items())
    return (
        f'<article><pre class="prompt">{escape(comparison.prompt)}</pre>'
        f'<div class="answers">{answers}</div></article>'
    )


def _answer(who: str, answer: Answer) -> str:
    kind, mark = ("right", "✓ correct") if answer.is_correct else ("wrong", "✗ not correct")
    head = f'<span class="who">{escape(who)}</span><span class="mark">{mark}</span>'
    said = f"<pre>{escape(answer.text)}</pre>"
    return f'<div class="answer {kind}"><div class="head">{head}</div>{said}</div>'


def _summary(summary: Mapping[str, Any] | None) -> str:
    if summary is None:
        return ""
    shown = escape(json.dumps(summary, indent=2, ensure_ascii=False))
    return f"<details><summary>Everything as JSON</summary><pre>{shown}</pre></details>"


STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #fff; --text: #1c2430; --quiet: #616b7a; --edge: #dde2e9;
  --s0: #2563eb; --s1: #d9480f; --s2: #0f8a5f; --s3: #8b3fc4; --right: #0f7a53; --wrong: #c0322b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12151b; --card: #1b2029; --text: #e5e9f0; --quiet: #98a3b3; --edge: #313946;
    --s0: #6ea1ff; --s1: #ff9255; --s2: #45c99a; --s3: #c792f5; --right: #4fcf9e; --wrong: #ff8078;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 27px; line-height: 1.2; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 17px; margin: 36px 0 12px; }
header p { color: var(--quiet); margin: 6px 0 22px; }
pre { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; margin: 0;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.figures, .charts { display: grid; gap: 14px; }
.figures { grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); }
.charts { grid-template-columns: repeat(auto-fit, minmax(min(430px, 100%), 1fr)); }
.figure, figure, table, article, details { background: var(--card); border: 1px solid var(--edge);
  border-radius: 10px; }
.figure { padding: 14px 16px; display: flex; flex-direction: column; }
.figure .label, .figure .detail { color: var(--quiet); font-size: 13px; }
.figure .value { font-size: 26px; font-weight: 650; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 0; width: 100%;
  font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; color: var(--quiet); font-size: 13px;
  padding: 8px 2px; }
th, td { padding: 8px 14px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--edge); }
th:first-child, td:first-child { text-align: left; }
th { color: var(--quiet); font-weight: 600; font-size: 13px; }
tbody tr:last-child td { border-bottom: 0; }
figure { margin: 0; padding: 12px 14px; }
figcaption { font-weight: 600; margin-bottom: 6px; }
.key { font-weight: 400; font-size: 13px; margin-left: 12px; }
.key::before { content: ""; display: inline-block; width: 14px; height: 3px; margin-right: 5px;
  vertical-align: middle; background: var(--color); }
svg { width: 100%; height: auto; display: block; font-size: 11px; }
svg text { fill: var(--quiet); }
.grid { stroke: var(--edge); } .axis { stroke: var(--quiet); }
.s0 { --color: var(--s0); } .s1 { --color: var(--s1); }
.s2 { --color: var(--s2); } .s3 { --color: var(--s3); }
polyline { fill: none; stroke: var(--color); stroke-width: 2; stroke-linejoin: round; }
polyline.raw { stroke-width: 1; opacity: 0.35; }
circle { fill: var(--color); } circle.hidden { opacity: 0; } circle:hover { opacity: 1; r: 5px; }
article { margin-bottom: 14px; overflow: hidden; }
.prompt { padding: 10px 16px; color: var(--quiet); border-bottom: 1px solid var(--edge); }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); }
.answer { padding: 10px 16px 14px; border-left: 3px solid var(--color); }
.right { --color: var(--right); } .wrong { --color: var(--wrong); }
.head { display: flex; justify-content: space-between; font-size: 13px; margin-bottom: 4px; }
.who { color: var(--quiet); } .mark { color: var(--color); font-weight: 600; }
details { padding: 12px 16px; margin-top: 36px; } details pre { margin-top: 10px; }
summary { cursor: pointer; }
.note { color: var(--quiet); }
"""
