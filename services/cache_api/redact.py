"""What must never be stored: secrets, replaced before anything is written, keyed or embedded.

Two sources, both deterministic: arguments that the tool's schema marks as secret (`format: password`, `writeOnly`, `x-secret`), and
patterns of high precision (keys with well-known prefixes, JWT, PEM, card numbers with a right checksum). A secret becomes
`[redacted:<tag>]`; the tag is an HMAC under the service's pepper, so two different secrets stay two different calls and nobody can turn a
tag back or try values against it. Lookups pass through the same door, so their keys agree with the recordings'. Entropy alone is no
evidence: ids look random too.
"""

import hashlib
import hmac
import re
from typing import Any

from cacherl.remembered import Remembered
from cacherl.tool_spec import ToolSpec

PATTERNS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"  # PEM
    r"|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"  # JWT
    r"|\bcr(?:l_[0-9a-z]{10}|d)_[0-9A-Za-z]{49}\b"  # our own keys and delegations
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"  # AWS
    r"|\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_[A-Za-z0-9_]{60,}\b"
    r"|\bglpat-[A-Za-z0-9_-]{20,}\b|\bxox[abeoprs]-[A-Za-z0-9-]{10,}\b"
    r"|\bsk-(?:[a-z]+-)*[A-Za-z0-9_-]{32,}\b|\b[rs]k_live_[A-Za-z0-9]{20,}\b|\bAIza[A-Za-z0-9_-]{35}\b",
    re.DOTALL,
)
HINTS = re.compile(r"-----B|eyJ|cr[ld]_|A[KS]IA|gh[pousr]_|github_p|glpat-|xox|sk-|k_live_|AIza")
"""What every pattern begins with or holds near its beginning: a text without any of these needs no closer look."""
CARD = re.compile(r"(?<![\w-])(?<!\d[.,])[3-6]\d{3}(?:[ -]?\d{4}){2}[ -]?\d{1,4}(?![\w-]|[.,]\d)")
"""Thirteen digits or more that stand by themselves: the decimals of a number are none."""
MARKS = ("writeOnly", "x-secret")
TAG = re.compile(r"\[redacted:[0-9a-f]{12}\]")
MIN_LENGTH = 12
"""A shorter text can hold none of the patterns."""


class Redactor:
    """Replaces secrets under one pepper."""

    def __init__(self, pepper: str) -> None:
        self._key = hashlib.sha256(b"cacherl redaction\0" + pepper.encode()).digest()

    def call(self, arguments: dict[str, Any], spec: ToolSpec | None) -> dict[str, Any]:
        """Arguments without secrets; the same object where there are none."""
        if spec is not None and _has_secrets(spec.function.parameters):
            arguments = self._marked(arguments, spec.function.parameters)
        return self.value(arguments)

    def value(self, value: Any) -> Any:
        """A JSON value without the patterns; the same object where there are none."""
        match value:
            case str():
                return self._text(value)
            case list():
                inner = [self.value(item) for item in value]
                return value if all(a is b for a, b in zip(inner, value, strict=True)) else inner
            case dict():
                found = {self._text(key): self.value(item) for key, item in value.items()}
                same = found.keys() == value.keys() and all(found[key] is item for key, item in value.items())
                return value if same else found
            case _:
                return value

    def tag(self, secret: str) -> str:
        """What stands in a secret's place."""
        return f"[redacted:{hmac.new(self._key, secret.encode('utf-8', 'surrogatepass'), hashlib.sha256).hexdigest()[:12]}]"

    def _text(self, text: str) -> str:
        if len(text) < MIN_LENGTH:
            return text
        redacted = PATTERNS.sub(lambda found: self.tag(found[0]), text) if HINTS.search(text) else text
        return CARD.sub(lambda found: self.tag(found[0]) if luhn(found[0]) else found[0], redacted)

    def _marked(self, value: Any, schema: Any) -> Any:
        if not isinstance(schema, dict):
            return value
        if is_secret(schema):
            return value if value is None or (isinstance(value, str) and TAG.fullmatch(value)) else self.tag(str(value))
        properties = schema.get("properties")
        if isinstance(value, dict) and isinstance(properties, dict):
            return {name: self._marked(item, properties.get(name)) for name, item in value.items()}
        if isinstance(value, list):
            return [self._marked(item, schema.get("items")) for item in value]
        return value


def is_secret(schema: dict[str, Any]) -> bool:
    """Whether a property's schema marks it as secret."""
    return schema.get("format") == "password" or any(schema.get(mark) is True for mark in MARKS)


def has_secrets(schema: Any) -> bool:
    """Whether any property of a schema is marked as secret."""
    if not isinstance(schema, dict):
        return False
    properties = schema.get("properties")
    inner = list(properties.values()) if isinstance(properties, dict) else []
    return is_secret(schema) or any(has_secrets(item) for item in [*inner, schema.get("items")])


_has_secrets: Remembered[dict[str, Any], bool] = Remembered(has_secrets)


def luhn(text: str) -> bool:
    """Whether the digits of a text are a card number with a right checksum."""
    digits = [int(character) for character in text if character.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
