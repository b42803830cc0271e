"""Whether a logged tool result is an error, where the log has no flag for it.

A flag on the message or in a JSON result decides. Without one only short single lines that speak of failure in general English count: to
take a success for a failure would hide a change of state, to take a failure for a success costs only a few hits. So this errs to "success".
"""

import re
from typing import Any

from cacherl.importers.records import parse_json

__all__ = ["failed"]

_LONGEST = 240
_FAILURE = re.compile(
    r"^\W{0,3}(?:\w+\.)*\w*(?:error|exception)\b(?!s? (?:report|code|log|message|rate|count))\s*(?:[:(\-]|$)"
    r"|^error (?:in|on|at|while|when|during|calling|executing|occurred)\b"
    r"|^(?:failed|failure|fatal|invalid|unable to|cannot|can't|could not|couldn't|unknown|missing|unauthori[sz]ed|forbidden)\b"
    r"|^(?:no )?[\w ,'/-]{1,60} (?:is |are |was |were )?not (?:found|valid|provided|supported|allowed|available)[.!]?"
    r"(?: please [^.]*\.?)?(?:$|: )"
    r"|\bis not a valid \w+|\bmust be one of\b|^(?:traceback \(most recent|http[/ ]?[\d.]* ?[45]\d\d\b|[45]\d\d [a-z])"
    r"|^no \w+(?: \w+)? (?:was |were )?provided\b|^please provide\b|\b(?:timed out|rate limit exceeded)\b",
    re.I,
)
_FAILURE_OF_ANY_LENGTH = re.compile(r"(?:error|exception): |traceback \(most recent|[\w.\-]+ is not a (?:valid|known) tool", re.I)


def failed(message: dict[str, Any], content: str) -> bool:
    """Whether a tool message in OpenAI form, with this text, is an error."""
    for flag in ("is_error", "isError"):
        if isinstance(message.get(flag), bool):
            return message[flag]
    if message.get("status") in ("error", "failed"):
        return True
    text = content.strip()
    if text[:1] == "{":
        return _stated(text)
    if _FAILURE_OF_ANY_LENGTH.match(text):
        return True
    return len(text) <= _LONGEST and "\n" not in text and _FAILURE.search(text) is not None


def _stated(text: str) -> bool:
    """Whether a JSON object says about itself that it is an error."""
    try:
        value = parse_json(text)
    except ValueError:
        return False
    if any(value.get(flag) is True for flag in ("is_error", "isError")) or value.get("status") in ("error", "failed"):
        return True
    return bool(value.get("error")) and len(value) <= 3
