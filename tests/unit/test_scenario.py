"""A scenario that the user says: a field, an expression, one name; never a silent guess."""

import json
from pathlib import Path

import pytest

from cacherl.errors import DataError, UsageError
from cacherl.importers import import_file
from cacherl.importers.scenario import Scenario

RECORD = {"env": "desk", "seed": 3, "meta": {"db": "a", "none": None}, "run-id": "r1", "flags": [1, 2]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("env", "desk"),
        ("seed", "3"),
        ("run-id", "r1"),
        ("meta.db", "a"),
        ("join('/', [env, meta.db])", "desk/a"),
        ("[env, seed]", "desk/3"),
        ("meta.none || 'base'", "base"),
        ("@.meta.db", "a"),
        ("'env'", "env"),
        ("town", "town"),
        ("bfcl/3", "bfcl/3"),
        ("my town-2", "my town-2"),
        ("v1.2", "v1.2"),
    ],
)
def test_what_a_text_means(text, value):
    assert Scenario(text, RECORD).of(RECORD) == value


@pytest.mark.parametrize("text", ["meta.bd", "join('/', [", "[nothing]", "env.x", "sum(env)", "@.nothing"])
def test_an_expression_that_gives_nothing_is_refused(text):
    with pytest.raises((UsageError, DataError)):
        Scenario(text, RECORD).of(RECORD)


def test_a_record_without_it_is_refused_and_the_others_are_kept(tmp_path: Path):
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    rows = [
        {"messages": messages, "env": "a"},
        {"messages": messages, "env": {"x": 1}},
        {"messages": messages},
        {"messages": messages, "env": "b"},
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = import_file(path, scenario="env")
    assert [t.scenario for t in found] == ["a", "b"]
    assert found.counts.reasons == {"no-scenario": 2}
    assert "scenario from the field 'env'" in found.why
    one = import_file(path, scenario="all of them")
    assert {t.scenario for t in one} == {"all of them"}
    assert "scenario 'all of them' for all records" in one.why
