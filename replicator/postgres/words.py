"""libpq's messages in our form: one line, lower case, without the advice that ours gives as a hint. Pure."""

from __future__ import annotations


def libpq_words(message: str) -> str:
    """The message without the lines of advice (they begin with a tab) and without the address before ` failed: `."""
    said = " ".join(line for line in message.splitlines() if not line.startswith("\t"))
    words = " ".join((said or message).split())
    words = words.partition(" failed: ")[2] or words
    return words[:1].lower() + words[1:] if words[1:2].islower() else words
