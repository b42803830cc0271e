"""The sample service on a database of its own."""

import psycopg
import pytest

from services.kit.settings import ServiceSettings
from services.local.scratch import DatabaseDsns
from tests.kit.sample import TABLE


@pytest.fixture
def sample_settings(database_dsns: DatabaseDsns, settings: ServiceSettings) -> ServiceSettings:
    with psycopg.connect(database_dsns.owner) as connection:
        connection.execute(TABLE)
    return settings
