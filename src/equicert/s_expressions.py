"""Bracketed terms, as solvers of formulas read them: words, and lists of terms."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from equicert.errors import InputError

Term = str | list["Term"]

_TOKEN: Final = re.compile(r"\s+|;[^\n]*|([()]|[^\s();]+)")
_DEEPEST = 100  # brackets within brackets
_LONGEST, _MOST_WORDS = 40, 24  # of what messages repeat


def read_terms(text: str) -> Iterator[Term]:
    """The terms at the top, one after the other; comments run from ; to the end of the line.

    Nothing here is recursive, and no term is nested deeper than a recursion over it may go.

    Raises:
        InputError: a word outside of brackets, brackets that do not match or are nested too deep.
    """
    stack: list[list[Term]] = []
    for match in _TOKEN.finditer(text):
        word = match[1]
        if word is None:
            continue
        if word == "(":
            if len(stack) == _DEEPEST:
                raise InputError(f"brackets are nested more than {_DEEPEST} deep")
            stack.append([])
        elif not stack:
            raise InputError(f"'{shorten(word)}' stands outside of brackets")
        elif word == ")":
            done = stack.pop()
            if not stack:
                yield done
            else:
                stack[-1].append(done)
        else:
            stack[-1].append(word)
    if stack:
        raise InputError(f"the text ends within {len(stack)} open brackets: it is cut off")


def show(term: Term) -> str:
    """The beginning of a term, for messages."""
    shown: list[str] = []
    stack = [term]
    while stack and len(shown) < _MOST_WORDS:
        part = stack.pop()
        if isinstance(part, str):
            shown.append(shorten(part))
        else:
            shown.append("(")
            stack += [")", *reversed(part[:_MOST_WORDS])]
    text = " ".join(shown).replace("( ", "(").replace(" )", ")")
    return text + (" ..." if stack else "")


def shorten(word: str) -> str:
    """A word, or the beginning of a long one."""
    return word if len(word) <= _LONGEST else f"{word[:_LONGEST]}..."
