"""Our own format: one `Trajectory` a line, exactly the shape of contracts §2. Nothing is guessed; what does not fit is refused."""

from pathlib import Path
from typing import Any, ClassVar

import pydantic_core
from pydantic import ValidationError

from cacherl.errors import DataError
from cacherl.trajectory import Raw, Role, Trajectory

__all__ = ["CacherlImporter"]


class CacherlImporter:
    """Reads trajectories that this project wrote."""

    name: ClassVar[str] = "cacherl"

    def __init__(self, path: Path, scenario: str | None) -> None:
        self.path, self.scenario, self.notes = path, scenario, []

    @staticmethod
    def recognise(record: dict[str, Any]) -> str | None:
        """Why a record is in this format, or None."""
        if {"id", "messages", "scenario", "task_id"} <= record.keys() and record.keys() <= Trajectory.model_fields.keys():
            return "records with id, messages, scenario and task_id and no other fields than a Trajectory's"
        return None

    def trajectory(self, record: dict[str, Any], line: int, repairs: list[str]) -> Trajectory:
        """The trajectory of a record; raises `DataError` for what the shape refuses."""
        try:
            trajectory = Trajectory.model_validate_json(pydantic_core.to_json(record), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            pointer = "/" + "/".join(map(str, first["loc"]))
            raise DataError(f"{pointer}: {first['msg']}", line=line, pointer=pointer, slug="not-a-trajectory") from None
        _every_result_has_its_call(trajectory)
        changes: dict[str, Any] = {} if trajectory.raw else {"raw": Raw(file=str(self.path), line=line)}
        if self.scenario is not None:
            changes["scenario"] = self.scenario
        return trajectory.model_copy(update=changes) if changes else trajectory


def _every_result_has_its_call(trajectory: Trajectory) -> None:
    if not any(m.role is Role.ASSISTANT for m in trajectory.messages):
        raise DataError("the assistant did nothing", pointer="/messages", slug="no-assistant-turn")
    pending: list[str | None] = []
    for i, message in enumerate(trajectory.messages):
        if message.role is Role.ASSISTANT:
            pending = [call.id for call in message.tool_calls]
        elif message.role is Role.TOOL:
            if message.tool_call_id not in pending:
                raise DataError(
                    f"a result answers no call (id {message.tool_call_id!r})", pointer=f"/messages/{i}", slug="result-without-call"
                )
            pending.remove(message.tool_call_id)
