"""Identifiers: a prefix that names the kind, then 26 characters that sort by time of creation.

The form is that of a ULID (48 bits of milliseconds, 80 random bits, Crockford's base32) in lower case, so `job_…` < `job_…` means
"created earlier" up to a millisecond, and identifiers made on different machines do not collide.
"""

import re
import secrets
import time

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
LENGTH = 26
PREFIX = re.compile(r"[a-z]{2,8}")
IDENTIFIER = re.compile(r"[a-z]{2,8}_[0-9a-hjkmnp-tv-z]{26}")


def new_id(prefix: str) -> str:
    """A new identifier, such as `job_01jd…`; `prefix` is two to eight lower-case letters."""
    if not PREFIX.fullmatch(prefix):
        raise ValueError(f"not a prefix: {prefix!r}")
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    letters: list[str] = []
    for _ in range(LENGTH):
        number, digit = divmod(number, 32)
        letters.append(ALPHABET[digit])
    return f"{prefix}_{''.join(reversed(letters))}"


def is_id(text: str, prefix: str) -> bool:
    """Whether `text` is an identifier of this kind."""
    return IDENTIFIER.fullmatch(text) is not None and text.startswith(f"{prefix}_")
