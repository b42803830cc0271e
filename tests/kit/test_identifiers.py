import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from cacherl.errors import InputError, UsageError
from services.kit.identifiers import is_id, new_id
from services.kit.paging import decode_cursor, encode_cursor, page
from services.kit.settings import ServiceSettings

Key = st.none() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text()


def test_identifiers_sort_by_time_and_do_not_repeat() -> None:
    early = new_id("job")
    time.sleep(0.002)
    late = [new_id("job") for _ in range(2000)]
    assert all(early < identifier for identifier in late)
    assert len(set(late)) == 2000
    assert all(is_id(identifier, "job") and not is_id(identifier, "pol") for identifier in late)
    assert not is_id("job_" + "i" * 26, "job")


@pytest.mark.parametrize("prefix", ["", "j", "Job", "job_", "a" * 9])
def test_a_prefix_is_a_few_letters(prefix: str) -> None:
    with pytest.raises(ValueError, match="not a prefix"):
        new_id(prefix)


@given(keys=st.lists(Key, min_size=1, max_size=4))
def test_a_cursor_gives_its_keys_back(keys: list[str | int | float | None]) -> None:
    assert decode_cursor(encode_cursor(*keys), len(keys)) == tuple(keys)


@given(cursor=st.text(max_size=60), length=st.integers(1, 3))
def test_any_other_text_is_the_callers_fault(cursor: str, length: int) -> None:
    keys: tuple[object, ...] | None = None
    with suppress(InputError):
        keys = decode_cursor(cursor, length)
    assert keys is None or len(keys) == length


def test_a_page_knows_whether_there_is_another() -> None:
    assert page([1, 2, 3], 3, 3).next_cursor is None
    first = page([1, 2, 3], 2, 2)
    assert first.items == [1, 2]
    assert decode_cursor(first.next_cursor, 1) == (2,)


def test_settings_come_from_arguments_environment_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pepper").write_text("p" * 40 + "\n")
    monkeypatch.setenv("CACHERL_PEPPER_FILE", str(tmp_path / "pepper"))
    monkeypatch.setenv("CACHERL_DATABASE_URL", "host=from-environment")
    monkeypatch.setenv("CACHERL_PORT", "8123")
    settings = ServiceSettings(port=9000)
    assert (settings.pepper.get_secret_value(), settings.database_url, settings.port) == ("p" * 40, "host=from-environment", 9000)
    assert "from-environment" not in repr(settings)
    monkeypatch.setenv("CACHERL_PEPPER_FILE", str(tmp_path / "missing"))
    with pytest.raises(UsageError, match="CACHERL_PEPPER_FILE"):
        ServiceSettings()


def test_a_faulty_setting_does_not_show_its_value() -> None:
    with pytest.raises(ValidationError) as caught:
        ServiceSettings(database_url="host=secret", pepper=SecretStr("x"), port="host=secret")  # type: ignore[arg-type]
    assert "host=secret" not in str(caught.value)
