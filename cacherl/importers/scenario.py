"""Which scenario a record belongs to, where the user says it: a field, an expression or one name for all (method §3.3).

Getting it wrong is costly, so nothing is guessed silently: what it was taken for stands in the import's notes, an expression must give a
value for every record, and one that the first record knows nothing of is refused at once.
"""

import re
from typing import Any

import jmespath
import pydantic_core
from jmespath.exceptions import JMESPathError

from cacherl.errors import DataError, UsageError

__all__ = ["Scenario"]

_SIGNS = re.compile(r"[\[\]()|&'`\"@!<>=*{},]")


class Scenario:
    """A `--scenario` text, understood by the first record of a file.

    A name of the record's fields is that field; a JMESPath (jmespath.org) that gives a value is an expression, such as `meta.env` or
    `join('/', [env, seed])`; anything else without an expression's signs is itself the scenario of all records. `'text'` in JMESPath's
    quotes is that text, whatever fields there are.
    """

    def __init__(self, text: str, first: dict[str, Any]) -> None:
        """Raises `UsageError` for an expression that is none, or that gives nothing for the first record."""
        self.text = text
        self.constant: str | None = None
        self._field = text in first
        self._expression: Any = None
        if self._field:
            self.note = f"scenario from the field {text!r}"
            return
        looks = _SIGNS.search(text) is not None or text.partition(".")[0] in first
        try:
            self._expression = jmespath.compile(text)
            value = self._expression.search(first)
        except JMESPathError as error:
            if looks:
                raise UsageError(f"--scenario: {text!r} is no JMESPath expression: {str(error).splitlines()[0]}") from None
            value = None
        if value is not None:
            self.note = f"scenario from the expression {text!r}"
        elif looks:
            raise UsageError(f"--scenario: {text!r} gives nothing for the first record, whose fields are {sorted(first)[:12]}")
        else:
            self.constant, self.note = text, f"scenario {text!r} for all records"

    def of(self, record: dict[str, Any]) -> str:
        """The scenario of a record. Raises `DataError` (`no-scenario`) where it gives none."""
        if self.constant is not None:
            return self.constant
        try:
            value = record.get(self.text) if self._field else self._expression.search(record)
        except JMESPathError as error:
            raise DataError(f"the scenario {self.text!r} cannot be told: {str(error).splitlines()[0]}", slug="no-scenario") from None
        if isinstance(value, list) and value and all(isinstance(item, str | int | float) for item in value):
            return "/".join(map(_text, value))
        if value is None or value == "" or isinstance(value, dict | list):
            raise DataError(f"the scenario {self.text!r} is not a value of the record", slug="no-scenario")
        return _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else pydantic_core.to_json(value).decode()
