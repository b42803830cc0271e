"""SQL: white space, comments, keywords' case and trailing semicolons fold; nothing that may change a result does.

sqlglot takes the text apart, and what is kept is cut from the text itself, so literals and quoted names stay byte for byte. Words that are
reserved everywhere are written large; other words keep their case, since column headings and some databases' names depend on it, except
under `postgres`, which itself folds unquoted names to small letters.

A text is left as it is where one reading is not certain: it does not parse; dialects disagree where a string or a comment begins (a
backslash in a string, `#`, `--` without white space after it, which is no comment in MySQL, nested comments); a comment is a hint or runs
as code (`/*+`, `/*!`); two strings stand side by side; white space is not ASCII. Comments are recognised by the reader that knows strings,
never before it: a `--` inside a string is text.
"""

import logging
import re
from functools import lru_cache
from itertools import pairwise

import sqlglot
from sqlglot import exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import ErrorLevel, SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

__all__ = ["fold", "reads"]

MAX_CHARACTERS = 20_000
READERS: dict[str | None, tuple[str | None, ...]] = {
    None: (None, "postgres", "mysql", "sqlite", "tsql"),
    "postgres": ("postgres",),
    "mysql": ("mysql",),
    "sqlite": ("sqlite",),
}
STATEMENTS = frozenset(map(TokenType.__getitem__, ("SELECT", "WITH", "INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "VALUES", "L_PAREN")))
"""What a text begins with that is read at all."""
_RESERVED = """
select distinct from where and or not in is null like between exists case when then else end as on join inner left right full
outer cross natural using group by having order asc desc limit offset union all except intersect with insert into values update
set delete create drop table primary foreign references unique check default constraint
"""
RESERVED = frozenset(_RESERVED.split())
"""Reserved words: no bare name may be one of them."""
_SPACED = ", ( ) = < > <= >= <> != + * / || ;"
SPACED = frozenset(_SPACED.split())
"""Signs around which white space says nothing."""
_STRINGS = "STRING NATIONAL_STRING RAW_STRING HEREDOC_STRING BYTE_STRING HEX_STRING BIT_STRING UNICODE_STRING"
QUOTED = frozenset(map(TokenType.__getitem__, ("IDENTIFIER", *_STRINGS.split())))
"""Strings and quoted names: never touched."""
_SPACE = r"[ \t\r\n\f\v]"
_BLOCK = r"/\*(?![+!])(?:(?!/\*)(?!\*/).)*\*/"
_LINE = r"[^\n\r]*(?:\r?\n|\Z)"
_GAP = re.compile(rf"(?:{_SPACE}|--(?={_SPACE}|\Z){_LINE}|{_BLOCK})*", re.S)
_GAP_WITH_DASHES = re.compile(rf"(?:{_SPACE}|--{_LINE}|{_BLOCK})*", re.S)
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")
logging.getLogger("sqlglot").addFilter(lambda record: record.levelno >= logging.ERROR)  # what it cannot read stays as it is: no news


def fold(text: str, dialect: str | None = None) -> str:
    """The canonical spelling of SQL; anything else, and SQL that cannot be read for certain, as it is."""
    return _folded(text, dialect) or text


def reads(text: str, dialect: str | None = None) -> bool:
    """Whether a text is SQL that is read for certain."""
    return _folded(text, dialect) is not None


@lru_cache(maxsize=16384)
def _folded(text: str, dialect: str | None) -> str | None:
    if len(text) > MAX_CHARACTERS:
        return None
    try:
        readings = [Dialect.get_or_raise(reader).tokenize(text) for reader in READERS[dialect]]
        tokens = readings[0]
        if (
            len(tokens) < 2
            or tokens[1].token_type is TokenType.SEMICOLON
            or tokens[0].token_type not in STATEMENTS
            or len({_spans(text, reading) for reading in readings}) > 1
        ):
            return None
        if any(token.token_type is TokenType.L_BRACE for token in tokens):  # a template
            return None
        if not _gaps_are_plain(text, tokens, dialect) or not _is_statement(text, dialect):
            return None
    except (SqlglotError, RecursionError):
        return None
    while tokens and tokens[-1].token_type is TokenType.SEMICOLON:
        tokens = tokens[:-1]
    return _written(text, tokens, dialect)


def _spans(text: str, tokens: list[Token]) -> tuple[tuple[int, int], ...]:
    """Where a reading sees quoted texts and gaps: dialects that agree in it agree in what may fold."""
    quoted = [(token.start, token.end) for token in tokens if token.token_type in QUOTED and text[token.end] in "'\"`]$"]
    return (*((start, -1) for start, _ in quoted), *_gaps(text, tokens))


def _gaps(text: str, tokens: list[Token]) -> list[tuple[int, int]]:
    found, at = [], 0
    for token in tokens:
        if token.start > at:
            found.append((at, token.start))
        at = token.end + 1
    return [*found, (at, len(text))] if at < len(text) else found


def _gaps_are_plain(text: str, tokens: list[Token], dialect: str | None) -> bool:
    """Whether nothing but ASCII white space and certain comments lies between the tokens, and no two strings side by side."""
    gap = _GAP_WITH_DASHES if dialect in ("postgres", "sqlite") else _GAP
    if not all(gap.fullmatch(text, start, end) for start, end in _gaps(text, tokens)):
        return False
    kinds = [token.token_type in QUOTED for token in tokens]
    return not any(a and b for a, b in pairwise(kinds))


def _is_statement(text: str, dialect: str | None) -> bool:
    for reader in READERS[dialect]:
        try:
            found = sqlglot.parse(text, dialect=reader, error_level=ErrorLevel.RAISE)
        except SqlglotError:
            continue
        statements = [one for one in found if one is not None and not isinstance(one, exp.Semicolon)]
        if statements and not any(isinstance(one, exp.Command) for one in statements):
            return True
    return False


def _written(text: str, tokens: list[Token], dialect: str | None) -> str:
    out: list[str] = []
    before, ended = "", -1
    for token in tokens:
        raw = text[token.start : token.end + 1]
        if ended >= 0 and _apart(before, raw, gap=token.start > ended + 1):
            out.append(" ")
        out.append(raw if token.token_type in QUOTED or before in (".", "@", ":", "$") else _word(raw, dialect))
        before, ended = raw, token.end
    return "".join(out)


def _apart(left: str, right: str, *, gap: bool) -> bool:
    """Whether a space stands between two tokens: where there was one, and around signs that need none."""
    if right == "(" and _WORD.fullmatch(left) and left.lower() not in RESERVED:
        return gap  # `f (x)` is no call of a built-in function in MySQL
    return gap or left in SPACED or right in SPACED


def _word(raw: str, dialect: str | None) -> str:
    if not _WORD.fullmatch(raw):
        return raw
    if raw.lower() in RESERVED:
        return raw.upper()
    return raw.lower() if dialect == "postgres" else raw
