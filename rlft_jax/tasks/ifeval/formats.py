"""IFEval's `detectable_format:` and `detectable_content:` instructions: marks to be found.

Marks are looked for line by line and from one to the next rather than by the published regular
expressions, some of which take quadratic time; a megabyte of "[" is read in milliseconds.
"""

import json
import re

_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_FENCES = ("```json", "```Json", "```JSON", "```")
_HIGHLIGHT = re.compile(r"\*([^\n*]*)\*")
_DOUBLE_HIGHLIGHT = re.compile(r"\*\*([^\n*]*)\*\*")
_POSTSCRIPTS = {
    "P.S.": re.compile(r"p\.\s?s\."),
    "P.P.S": re.compile(r"p\.\s?p\.\s?s"),
}


def json_format(response: str) -> bool:
    """Whether the whole response is JSON, with or without a markdown fence around it."""
    text = response.strip()
    for fence in _FENCES:
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):  # ten thousand brackets are no answer
        return False
    return True


def title(response: str) -> bool:
    """Whether a line holds a title in double angular brackets, as <<poem of joy>>."""
    return any(_has_title(line) for line in response.split("\n"))


def constrained_response(response: str) -> bool:
    """Whether one of the three answers is in it: "My answer is yes." or no or maybe."""
    return any(answer in response for answer in _ANSWERS)


def multiple_sections(response: str, *, section_spliter: str, num_sections: int) -> bool:
    """Whether the section mark, followed by a number, occurs at least so often."""
    marks = re.findall(rf"{re.escape(section_spliter)}\s?\d", response)
    return len(marks) >= num_sections


def number_bullet_lists(response: str, *, num_bullets: int) -> bool:
    """Whether exactly so many lines begin with "* " or "-".

    A lone * on its line is no bullet; the published code takes it for one, and the line after it
    for its text.
    """
    return sum(map(_is_bullet, response.split("\n"))) == num_bullets


def number_highlighted_sections(response: str, *, num_highlights: int) -> bool:
    """Whether there are at least so many *highlighted* or **highlighted** sections."""
    single, double = _HIGHLIGHT.findall(response), _DOUBLE_HIGHLIGHT.findall(response)
    return sum(1 for section in single + double if section.strip()) >= num_highlights


def number_placeholders(response: str, *, num_placeholders: int) -> bool:
    """Whether there are at least so many placeholders in square brackets, as [address]."""
    return sum(map(_placeholders, response.split("\n"))) >= num_placeholders


def postscript(response: str, *, postscript_marker: str) -> bool:
    """Whether the postscript's mark occurs, in any case; P.S. may be spaced, as "p. s."."""
    text = response.lower()
    spaced = _POSTSCRIPTS.get(postscript_marker)
    return postscript_marker.lower() in text if spaced is None else bool(spaced.search(text))


def _has_title(line: str) -> bool:
    start, end = line.find("<<"), line.rfind(">>")
    return 0 <= start < end and bool(line[start:end].strip("<>").strip())


def _is_bullet(line: str) -> bool:
    line = line.lstrip()
    return line.startswith("-") or (line[:1] == "*" and line[1:2] not in ("", "*"))


def _placeholders(line: str) -> int:
    found, start = 0, line.find("[")
    while start >= 0 and (end := line.find("]", start)) >= 0:
        found += 1
        start = line.find("[", end)
    return found
