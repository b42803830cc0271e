"""Vectors of calls for the best-effort tier: hashed character n-grams, deterministic, no model.

The text of a call is its tool and `path: value` lines, so calls that share words under the same arguments lie near one another.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import HashingVectorizer

from cacherl.errors import ConflictError, InputError

DIMENSION = 384
MAX_TEXT = 2_000


class Embedder(Protocol):
    """Makes unit vectors; the same text gives the same vector in every process."""

    name: str

    def vectors(self, texts: list[str]) -> NDArray[np.float32]:
        """vectors_ND of length 1, 384 wide."""
        ...

    def embed(self, texts: list[str]) -> list[str]:
        """vectors_N as pgvector literals `[x,…]` of 384 numbers."""
        ...


class HashingEmbedder:
    """scikit-learn's HashingVectorizer over character 3- and 4-grams within words."""

    name = "hashing-char-wb-3-4"

    def __init__(self) -> None:
        self._vectorizer = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 4), n_features=DIMENSION)

    def vectors(self, texts: list[str]) -> NDArray[np.float32]:
        """vectors_ND of length 1; a text without any n-gram lies along the first axis, since a zero vector has no cosine."""
        if not texts:
            return np.zeros((0, DIMENSION), dtype=np.float32)
        vectors_ND = csr_matrix(self._vectorizer.transform(texts)).toarray().astype(np.float32)
        vectors_ND[~vectors_ND.any(axis=1), 0] = 1.0
        return vectors_ND

    def embed(self, texts: list[str]) -> list[str]:
        """vectors_N as pgvector literals."""
        rounded_ND = np.round(self.vectors(texts), 4)
        return [orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY).decode() for row in rounded_ND]


def embedded(embedder: Embedder, wanted: str | None, texts: Sequence[str]) -> Sequence[str | None]:
    """vectors_N for a cache whose vectors were made by `wanted`; None each where it has none.

    Errors: ConflictError `another-embedder` where this process makes others: they would lie in no common space.
    """
    if wanted is None:
        return [None] * len(texts)
    if wanted != embedder.name:
        raise ConflictError(f"The cache's vectors are made by {wanted}, this service has {embedder.name}.", slug="another-embedder")
    return embedder.embed(list(texts))


def refuse_dimension(expected: int | None, made: int) -> None:
    """Raises InputError `wrong-dimension` where a caller counts on vectors of another width."""
    if expected is not None and expected != made:
        errors = [{"pointer": "/dimension", "detail": f"the embedder makes vectors of {made} numbers, not {expected}"}]
        raise InputError("The vectors of this cache have another width.", errors=errors, slug="wrong-dimension")


def call_text(tool: str, arguments: dict[str, Any]) -> str:
    """What is embedded of a call, at most 2,000 characters."""
    return "\n".join([tool, *(f"{path}: {value}" for path, value in leaves(arguments))])[:MAX_TEXT]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(JSON pointer, scalar) of every leaf; an empty object or list is a leaf."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from leaves(inner, f"{path}/{str(name).replace('~', '~0').replace('/', '~1')}")
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{path}/{index}")
    else:
        yield path, value
