"""What each canonicaliser must merge, and what it must keep apart."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cacherl.canonicalisers import CANONICALISERS, fold, reads
from cacherl.canonicalisers.applies import dialect_of, sql_properties
from cacherl.canonicalisers.sql import MAX_CHARACTERS
from cacherl.tool_call import canonical_arguments, exact_key
from cacherl.tool_spec import Annotations, Function, ToolSpec

MUST_MERGE = [
    ["SELECT a FROM t", "select a from t", "Select  a\n\tFrom t", "SELECT a FROM t;", "SELECT a FROM t ;; \n", "SELECT a -- the a\nFROM t"],
    ["SELECT a FROM t", "/* first */ SELECT a /* of\nmany lines */ FROM t -- end", "SELECT a -- it's a comment with 'quotes'\nFROM t"],
    ["SELECT a,b FROM t WHERE x=1", "SELECT a , b FROM t WHERE x = 1", "select a,\n  b\nfrom t\nwhere x =1"],
    ["SELECT * FROM t WHERE a IN (1,2)", "select * from t where a in(1, 2)"],
    ["SELECT 'a--b' FROM t", "select 'a--b'\nfrom t -- x"],
    ["SELECT count(*) FROM t", "select count(*) from t;", "SELECT count( * ) FROM t"],
    ["INSERT INTO t VALUES (1, 'x')", "insert into t values(1,'x')"],
    ["WITH q AS (SELECT 1) SELECT * FROM q", "with q as ( select 1 ) select * from q"],
    ["SELECT 1;\nSELECT 2", "select 1 ; select 2;"],
]
MUST_STAY_DISTINCT = [
    ["SELECT 'a' FROM t", "SELECT 'A' FROM t", "SELECT 'a ' FROM t", "SELECT ' a' FROM t", 'SELECT "a" FROM t', "SELECT a FROM t"],
    ["SELECT 'x -- y' FROM t", "SELECT 'x' FROM t", "SELECT 'x -- z' FROM t", "SELECT 'x  -- y' FROM t", "SELECT 'x-- y' FROM t"],
    ["SELECT '/* x */ a' FROM t", "SELECT ' a' FROM t", "SELECT '/* y */ a' FROM t"],
    ["SELECT 'a\nb'", "SELECT 'a b'", "SELECT 'a\tb'", "SELECT 'ab'"],
    ['SELECT "Name" FROM t', 'SELECT "name" FROM t', "SELECT Name FROM t", "SELECT name FROM t"],
    ["SELECT a FROM t WHERE x = 1", "SELECT a FROM t WHERE x = 2", "SELECT a FROM t WHERE x = '1'", "SELECT a FROM t WHERE x = 1.0"],
    ["SELECT a FROM t ORDER BY b", "SELECT a FROM t ORDER BY b DESC", "SELECT a FROM t"],
    ["SELECT 5--3", "SELECT 5", "SELECT 5 - -3", "SELECT 5-3"],
    ["SELECT 5 -- 3\n+ 1", "SELECT 5 -- 3 + 1", "SELECT 5 + 2"],
    ["SELECT /*+ FULL(t) */ a FROM t", "SELECT a FROM t"],
    ["SELECT /*! 1, */ a FROM t", "SELECT a FROM t"],
    ["SELECT a /* /* */ , b */ FROM t", "SELECT a FROM t", "SELECT a , b FROM t"],
    ["SELECT 1 # 2", "SELECT 1", "SELECT 1 # 3"],
    ["SELECT 'a\\' -- ', b", "SELECT 'a\\'", "SELECT 'a\\' -- '"],
    ["SELECT 'a' 'b'", "SELECT 'a'\n'b'", "SELECT 'ab'", "SELECT 'a''b'"],
    ["SELECT 1 .5", "SELECT 1.5", "SELECT 1. 5", "SELECT 15"],
    ["SELECT x'ab'", "SELECT x 'ab'"],
    ["SELECT count(*) FROM t", "SELECT count (*) FROM t", "SELECT COUNT(*) FROM t"],
    ["SELECT t.order FROM t", "SELECT t.ORDER FROM t"],
    ["SELECT a<=b", "SELECT a< =b", "SELECT a<b"],
    ["SELECT $$a b$$", "SELECT $$a  b$$"],
    ["SELECT a FROM t", "SELECT a\u00a0FROM t", "SELECTa FROM t", "SELECT aFROM t"],
    ["SELECT 1; DROP TABLE t", "SELECT 1", "DROP TABLE t"],
    ["SELECT 1 -- x\rFROM t", "SELECT 1"],
    ["SELECT a AS b FROM t", "SELECT a AS B FROM t"],
]
NOT_READ = [
    "", "hello", "select", "select the red one", "select;",
    "SELECT 'unterminated FROM t", "SELECT (", ")", "1", "--", "-- only a comment", "/*", "{}", ";",
    "SELECT a FROM t WHERE", "SELECT `a` FROM [t]", "VACUUM", "EXPLAIN  SELECT 1", "SELECT {{ x }}", "\x00", "SELECT ((((((((", "( ( (",
    "select " + "(" * 3000 + "1" + ")" * 3000, "SELECT  1 " + " " * MAX_CHARACTERS,
]  # fmt: skip


@pytest.mark.parametrize("texts", MUST_MERGE)
@pytest.mark.parametrize("name", CANONICALISERS)
def test_must_merge(texts, name):
    assert len({fold(name, text) for text in texts}) == 1


@pytest.mark.parametrize("texts", MUST_STAY_DISTINCT)
def test_must_stay_distinct(texts):
    assert len({fold("sql", text) for text in texts}) == len(texts)


@pytest.mark.parametrize("text", NOT_READ)
def test_what_cannot_be_read_stays_as_it_is(text):
    assert fold("sql", text) == text
    assert not reads("sql", text)


def test_a_dialect_that_is_known_folds_what_it_alone_reads_so():
    assert fold("sql/postgres", "SELECT Name FROM T --x\n") == fold("sql/postgres", "select name from t")
    assert fold("sql/postgres", 'SELECT "Name" FROM t') != fold("sql/postgres", 'SELECT "name" FROM t')
    assert fold("sql/postgres", "SELECT 'N' FROM t") != fold("sql/postgres", "SELECT 'n' FROM t")
    assert fold("sql/sqlite", "SELECT `a` FROM t") == fold("sql/sqlite", "select `a`  from t")
    assert fold("sql/mysql", "SELECT 'a\\' -- b' FROM t") == fold("sql/mysql", "select 'a\\' -- b' from t")
    assert fold("sql/mysql", "SELECT 5--3") != fold("sql/mysql", "SELECT 5")
    assert fold("sql/mysql", "SELECT Name FROM t") != fold("sql/mysql", "SELECT name FROM t")


PIECES = [
    "select",
    "SELECT",
    "a",
    "A",
    "'x'",
    "' -- '",
    "''",
    '"q"',
    ",",
    "(",
    ")",
    "=",
    "1",
    "1.5",
    "-",
    "--",
    "-- c\n",
    "/*",
    "*/",
    "/* c */",
]
PIECES += [" ", "\n", "from", "t", "where", ";", ".", "'", "\\", "#", "$$", "`", "*", "::int", "or", "\u00a0", "in"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map(lambda p: "select " + " ".join(p)), st.sampled_from(list(CANONICALISERS)))
def test_folding_twice_is_folding_once_and_literals_survive(text, name):
    once = fold(name, text)
    assert fold(name, once) == once
    if once != text and "'" in text:
        assert (
            sorted(part for part in text.split("'")[1::2] if "--" not in text)
            == sorted(part for part in once.split("'")[1::2] if "--" not in text)
            or "/*" in text
        )


def sql_tool(name: str = "run", description: str = "", **annotations: object) -> ToolSpec:
    properties = {"sql": {"type": "string", "description": "SQL to run"}, "note": {"type": "string"}}
    parameters = {"type": "object", "properties": properties}
    return ToolSpec(function=Function(name=name, description=description, parameters=parameters), annotations=Annotations(**annotations))


def test_keys_fold_by_the_annotation_and_only_the_argument_that_holds_sql():
    one, other = {"sql": "SELECT a  FROM t", "note": "SELECT a  FROM t"}, {"sql": "select a from t;", "note": "SELECT a  FROM t"}
    plain, folding = sql_tool(), sql_tool(canonicaliser="sql")
    assert exact_key("run", one, plain) != exact_key("run", other, plain)
    assert exact_key("run", one, plain) == exact_key("run", one)
    assert exact_key("run", one, folding) == exact_key("run", other, folding)
    assert canonical_arguments(one, folding) == {"note": "SELECT a  FROM t", "sql": "SELECT a FROM t"}
    assert exact_key("run", {"sql": "not sql", "note": ""}, folding) == exact_key("run", {"sql": "not sql", "note": ""})
    assert canonical_arguments({"sql": 7, "query": ["select  1"]}, folding) == {"query": ["select  1"], "sql": 7}


def test_a_canonicaliser_that_does_not_exist_is_refused():
    with pytest.raises(ValidationError, match="no canonicaliser 'xml'"):
        Annotations(canonicaliser="xml")


def test_words_say_which_arguments_hold_sql_and_which_database_reads_it():
    assert sql_properties(sql_tool()) == ["sql"]
    assert dialect_of(sql_tool()) == "sql"
    assert dialect_of(sql_tool(description="Runs a query against the PostgreSQL database.")) == "sql/postgres"
    assert dialect_of(sql_tool(description="Moves rows from MySQL to PostgreSQL.")) == "sql"
    asked = {"query": {"type": "string"}, "limit": {"type": "integer"}}
    parameters = {"type": "object", "properties": asked}
    assert sql_properties(ToolSpec(function=Function(name="search_web", parameters=parameters))) == []
    assert sql_properties(ToolSpec(function=Function(name="db", description="Execute SQL.", parameters=parameters))) == ["query"]
