"""The form of credentials, pure: `crl_<prefix>_<secret>` for API keys, `crd_<secret>` for delegations.

A secret is random and ends in a CRC-32 of all that stands before it, so a scanner can tell a leaked key from text that
looks like one, and a mistyped key is refused without asking the database. The database holds HMAC-SHA256 of a key under
the pepper, SHA-256 of a delegation (256 random bits need no pepper); neither can be turned back into the token.
"""

import hashlib
import hmac
import re
import secrets
import string
import zlib

DIGITS = string.digits + string.ascii_letters
KEY = re.compile(r"crl_[0-9a-z]{10}_[0-9A-Za-z]{49}")
DELEGATION = re.compile(r"crd_[0-9A-Za-z]{49}")
RANDOM_LENGTH = 43
CHECKSUM_LENGTH = 6


def _random(alphabet: str, length: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))


def checksum(text: str) -> str:
    """CRC-32 of `text` in six base-62 digits."""
    number, digits = zlib.crc32(text.encode()), []
    for _ in range(CHECKSUM_LENGTH):
        number, digit = divmod(number, len(DIGITS))
        digits.append(DIGITS[digit])
    return "".join(reversed(digits))


def _sealed(text: str) -> str:
    return text + checksum(text)


def new_key() -> str:
    """A new API key."""
    return _sealed(f"crl_{_random(string.digits + string.ascii_lowercase, 10)}_{_random(DIGITS, RANDOM_LENGTH)}")


def new_delegation() -> str:
    """A new delegation token."""
    return _sealed(f"crd_{_random(DIGITS, RANDOM_LENGTH)}")


def is_well_formed(token: str) -> bool:
    """Whether a token has the form of one of ours and its checksum is right."""
    if not (KEY.fullmatch(token) or DELEGATION.fullmatch(token)):
        return False
    return checksum(token[:-CHECKSUM_LENGTH]) == token[-CHECKSUM_LENGTH:]


def is_key(token: str) -> bool:
    """Whether a well-formed token is an API key rather than a delegation."""
    return token.startswith("crl_")


def prefix(token: str) -> str:
    """The public part of an API key, by which it is found and named."""
    return token.split("_")[1]


def fingerprint(token: str) -> bytes:
    """SHA-256 of a token: 32 bytes."""
    return hashlib.sha256(token.encode()).digest()


def digest(token: str, pepper: bytes) -> bytes:
    """What is stored of an API key: HMAC-SHA256 under the pepper, 32 bytes."""
    return hmac.new(pepper, token.encode(), hashlib.sha256).digest()


def matches(token: str, pepper: bytes, expected: bytes) -> bool:
    """Whether a token is the one that was stored, in constant time."""
    return hmac.compare_digest(digest(token, pepper), expected)
