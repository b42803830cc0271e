"""Runs one service: `python -m services.kit.serve cache_api|rollout|reward|trainer`.

Imports `services.<name>.app:create`, builds the settings that its parameter is annotated with from the environment, and
serves it with uvicorn on uvloop. SIGTERM stops accepting, lets running requests end for `GRACE_S`, then closes. One
process serves one service: replicas scale it.
"""

import argparse
import gc
import importlib
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import get_type_hints

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from cacherl.errors import UsageError
from services.kit.settings import ServiceSettings
from services.kit.telemetry import configure_logging

SERVICES = ("cache_api", "rollout", "reward", "trainer")
GRACE_S = 20


def load(name: str) -> tuple[FastAPI, ServiceSettings]:
    """The application of a service and its settings; UsageError where the service or a setting is missing."""
    if find_spec(f"services.{name}") is None or find_spec(f"services.{name}.app") is None:
        raise UsageError(f"services.{name}.app is not there: this checkout or image lacks the service {name}.")
    create: Callable[[ServiceSettings], FastAPI] = importlib.import_module(f"services.{name}.app").create
    kind = get_type_hints(create).get("settings", ServiceSettings)
    try:
        settings: ServiceSettings = kind()
    except ValidationError as error:
        missing = ", ".join("CACHERL_" + "_".join(map(str, fault["loc"])).upper() + f": {fault['msg']}" for fault in error.errors())
        raise UsageError(f"The settings of {name} do not fit: {missing}") from None
    return create(settings), settings


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m services.kit.serve", description="Runs one service.")
    parser.add_argument("service", choices=SERVICES)
    try:
        app, settings = load(parser.parse_args(arguments).service)
    except UsageError as error:
        sys.stderr.write(f"{error.detail}\n")
        sys.exit(2)
    # What was imported stays: full collections need not walk it again.
    gc.collect()
    gc.freeze()
    configure_logging(level=settings.log_level, form=settings.log_format)
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_S,
    )


if __name__ == "__main__":
    main()
