"""What kind of failure a tool's error is (method §3.4): it decides whether a recording of it may be served and whether it moved the state.

A structured status (`status`, `status_code`, `code`, `http_status`) speaks first, then general English and HTTP phrases of the text. No
tool's own wording is known here. An error that nothing classifies is `state_dependent`, the class that is served most carefully among
those that are served at all.
"""

import re
from enum import StrEnum
from functools import lru_cache

from cacherl.tier import ToolResult
from cacherl.tool_call import dump_canonical
from cacherl.wire import Json

__all__ = ["ErrorClass", "error_class"]


class ErrorClass(StrEnum):
    """How an error depends on the world."""

    DETERMINISTIC = "deterministic"
    """The same arguments always fail so: a schema or type error."""
    STATE_DEPENDENT = "state_dependent"
    """The state of the environment made it fail: not found, already done, not enough."""
    TRANSIENT = "transient"
    """The infrastructure failed; the call may or may not have had its effect. Never served."""


_STATUS_FIELDS = ("status_code", "http_status", "status", "code")
_TRANSIENT_CODES = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
_DETERMINISTIC_CODES = frozenset({400, 405, 406, 411, 413, 414, 415, 422, 431, 501})
_CODE_IN_TEXT = re.compile(
    r"\b(?:http(?:/\d(?:\.\d)?)?|status(?: code)?|error code)[ :=]*([45]\d\d)\b|^(?:error[: ]*)?([45]\d\d) [a-z]", re.I
)
_TRANSIENT = re.compile(
    r"timed?[ -]?out(?! (?:must|should|value|parameter|argument))|deadline exceeded|rate.?limit|too many requests|quota exceeded"
    r"|(?:temporarily|service|server|currently) (?:is )?(?:temporarily )?(?:unavailable|overloaded|down)|try again (?:later|in )|overloaded"
    r"|connection (?:was )?(?:reset|refused|aborted|closed|error|lost)|network (?:is )?(?:error|unreachable|failure)"
    r"|internal server error|bad gateway|gateway time|broken pipe|host unreachable|econn(?:reset|refused)|dns|name resolution",
    re.I,
)
_STATE = re.compile(
    r"not found|no such|does(?: not|n't) exist|already|insufficient|not enough|cannot be (?:cancel|chang|modif|updat|delet|return|exchang)"
    r"|unavailable|not available|no longer|expired|conflict|locked|out of stock|not (?:logged|signed) in|must (?:be logged|log) in"
    r"|unauthorized|forbidden|permission|not allowed|no \w+ (?:with|matching|for)|could(?: not|n't) find"
    r"|unknown (?:id|user|account|order|item)",
    re.I,
)
_DETERMINISTIC = re.compile(
    r"invalid|missing|required|unexpected (?:keyword|argument|field|type)|validation|must (?:be|match|have|not)|should be|expected"
    r"|malformed|parse|not (?:a )?valid|unknown (?:parameter|argument|field|option|tool|function)|type ?error|value ?error|schema"
    r"|unsupported|out of range",
    re.I,
)


def error_class(result: ToolResult) -> ErrorClass:
    """The class of a result that is an error. Of a result that is none the answer means nothing: look at `is_error` first."""
    if isinstance(result.content, str):
        return _of_text(result.content[:4000])
    code = _status(result.content)
    if code is not None:
        return _of_code(code)
    return _of_text(dump_canonical(result.content).decode()[:4000])


@lru_cache(maxsize=4096)
def _of_text(text: str) -> ErrorClass:
    found = _CODE_IN_TEXT.search(text)
    if found:
        return _of_code(int(found[1] or found[2]))
    if _TRANSIENT.search(text):
        return ErrorClass.TRANSIENT
    if _STATE.search(text):
        return ErrorClass.STATE_DEPENDENT
    return ErrorClass.DETERMINISTIC if _DETERMINISTIC.search(text) else ErrorClass.STATE_DEPENDENT


def _of_code(code: int) -> ErrorClass:
    if code in _TRANSIENT_CODES:
        return ErrorClass.TRANSIENT
    return ErrorClass.DETERMINISTIC if code in _DETERMINISTIC_CODES else ErrorClass.STATE_DEPENDENT


def _status(content: Json) -> int | None:
    """An HTTP status that a JSON error states about itself, at its top or one level inside `error`."""
    if not isinstance(content, dict):
        return None
    for field in _STATUS_FIELDS:
        value = content.get(field)
        if isinstance(value, str) and value.isdigit():
            value = int(value)
        if isinstance(value, int) and 400 <= value < 600:
            return value
    return _status(content.get("error"))
