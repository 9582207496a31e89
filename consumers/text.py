"""Text that others wrote, made fit for a line of ours."""

from __future__ import annotations


def printable(text: str, most: int) -> str:
    """At most so many characters, those that are not printable replaced.

    Control characters move a terminal's cursor and colours, line separators forge lines, marks of direction turn what
    follows around.
    """
    text = text[:most]
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
