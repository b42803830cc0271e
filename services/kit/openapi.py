"""The OpenAPI documents of the services, as files: `python -m services.kit.openapi docs/openapi`.

The documents are made from the code; the snapshots in the repository are the contract, and a test compares the two.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import SecretStr

from services.kit.serve import SERVICES


def document(service: str) -> dict[str, Any]:
    """The OpenAPI document of a service; no database is needed for it."""
    create = importlib.import_module(f"services.{service}.app").create
    settings = get_type_hints(create)["settings"](database_url="postgresql://nowhere", pepper=SecretStr("x" * 32))
    return create(settings).openapi()


def text(service: str) -> str:
    """The document as it is kept: stable, one line a field."""
    return json.dumps(document(service), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m services.kit.openapi", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    for service in SERVICES:
        (folder / f"{service}.json").write_text(text(service), encoding="utf-8")
        sys.stderr.write(f"{folder / service}.json\n")


if __name__ == "__main__":
    main()
