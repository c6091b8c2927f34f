"""IFEval's instructions about a response as a whole: how it begins, ends and falls into parts."""


def repeat_prompt(response: str, *, prompt_to_repeat: str) -> bool:
    """Whether it begins with the request itself, whatever the case."""
    return response.strip().lower().startswith(prompt_to_repeat.strip().lower())


def two_responses(response: str) -> bool:
    """Whether it holds two different answers with ****** between them.

    An empty answer fails it, except before a first and after a last divider.
    """
    answers = [answer.strip() for answer in response.split("******")]
    if not all(answers[1:-1]):
        return False
    written = [answer for answer in answers if answer]
    return len(written) == 2 and written[0] != written[1]


def end_checker(response: str, *, end_phrase: str) -> bool:
    """Whether it ends with the phrase, in any case; a quotation mark may follow."""
    return response.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(response: str) -> bool:
    """Whether double quotation marks stand around all of it."""
    text = response.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def no_comma(response: str) -> bool:
    """Whether it does without the comma "," (those of other scripts do not count)."""
    return "," not in response
