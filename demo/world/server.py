"""The world as a process of its own: live tools over loopback HTTP, and a counter that says how often they were called.

Only `POST /sessions/{session}/calls` and `POST /calls` are tool calls and move the counter; checks replay calls in a fresh session and
have a counter of their own. Sessions live in memory, at most `MAX_SESSIONS`; the one unused for longest goes first, and a call to a session
that is gone says so instead of silently starting from nothing. The face is unauthenticated and binds to loopback only.
"""

from collections import Counter, OrderedDict
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from demo.world.engine import TOOLS, Goal, Session
from demo.world.town import Changes, UnknownTown

MAX_SESSIONS = 20_000
MAX_BATCH = 5_000

Name = Annotated[str, Field(min_length=1, max_length=200)]


class Body(BaseModel):
    """A request body: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class Call(Body):
    """One tool call."""

    name: Name
    arguments: dict[str, Any]


class Opening(Body):
    """A session to open."""

    session: Name
    scenario: Name


class SessionCall(Call):
    """One call of a batch; the session is opened in `scenario` where it is new."""

    session: Name
    scenario: Name | None = None


class Batch(Body):
    """Calls of many sessions, run in this order."""

    items: Annotated[list[SessionCall], Field(max_length=MAX_BATCH)]


class GoalBody(Body):
    """A task's goal: `reference.goal`."""

    state: dict[str, dict[str, str]]
    answer: list[str]

    def goal(self) -> Goal:
        """As the engine knows it.

        Raises:
            HTTPException: 422, the state names something that a session cannot change.
        """
        unknown = set(self.state) - set(Changes().plain())
        if unknown:
            raise HTTPException(422, f"a goal's state has refunds and moves, not {', '.join(sorted(unknown))}")
        return Goal(state=self.state, answer=tuple(self.answer))


class SessionCheck(Body):
    """A goal to check in an open session."""

    goal: GoalBody
    answer: str | None


class Check(SessionCheck):
    """A goal to check after replaying calls in a fresh session."""

    scenario: Name
    calls: Annotated[list[Call], Field(max_length=200)]


class Checks(Body):
    """Many checks at once."""

    items: Annotated[list[Check], Field(max_length=MAX_BATCH)]


class ToolAnswer(BaseModel):
    """What a tool said: `content` is JSON text."""

    content: str
    is_error: bool


class VerdictAnswer(BaseModel):
    """Whether a goal was reached."""

    success: bool
    state: bool
    answer: bool
    detail: str


class Count(BaseModel):
    """How often the world was asked since it started."""

    calls: int
    by_tool: dict[str, int]
    """Names that no tool has are counted under `unknown`."""
    checks: int


@dataclass
class World:
    """The sessions of one server and its counters."""

    max_sessions: int = MAX_SESSIONS
    sessions: OrderedDict[str, Session] = field(default_factory=OrderedDict)
    by_tool: Counter[str] = field(default_factory=Counter)
    checks: int = 0

    def open(self, session: str, scenario: str) -> Session:
        """Opens a session, or returns the open one of that name.

        Raises:
            HTTPException: 404, there is no such town; 409, the session is open in another.
        """
        known = self.sessions.get(session)
        if known is not None:
            if known.town.name != scenario:
                raise HTTPException(409, f"session {session} is open in {known.town.name}")
            self.sessions.move_to_end(session)
            return known
        fresh = self.fresh(scenario)
        self.sessions[session] = fresh
        while len(self.sessions) > self.max_sessions:
            self.sessions.popitem(last=False)
        return fresh

    def fresh(self, scenario: str) -> Session:
        """A session that nobody can name.

        Raises:
            HTTPException: 404, there is no such town.
        """
        try:
            return Session(scenario)
        except UnknownTown as error:
            raise HTTPException(404, str(error)) from error

    def get(self, session: str, scenario: str | None) -> Session:
        """The open session, or a new one where a scenario is given.

        Raises:
            HTTPException: 404, the session is not open and no scenario was given.
        """
        if scenario is not None:
            return self.open(session, scenario)
        if session not in self.sessions:
            raise HTTPException(404, f"session {session} is not open: give its scenario")
        self.sessions.move_to_end(session)
        return self.sessions[session]

    def call(self, session: Session, name: str, arguments: dict[str, Any]) -> ToolAnswer:
        """Makes one live call and counts it."""
        self.by_tool[name if name in TOOLS else "unknown"] += 1
        content, is_error = session.call(name, arguments)
        return ToolAnswer(content=content, is_error=is_error)

    def check(self, session: Session, body: SessionCheck) -> VerdictAnswer:
        """Checks a goal and counts the check."""
        self.checks += 1
        return VerdictAnswer(**asdict(session.check(body.goal.goal(), body.answer)))

    def replay(self, body: Check) -> VerdictAnswer:
        """Checks a goal after the calls, made in a session of its own; they are not tool calls of the counter."""
        session = self.fresh(body.scenario)
        for call in body.calls:
            session.call(call.name, call.arguments)
        return self.check(session, body)


def app(max_sessions: int = MAX_SESSIONS) -> FastAPI:
    """The server over a world of its own."""
    world = World(max_sessions=max_sessions)
    api = FastAPI(title="The demo's world", version="1", docs_url="/docs", redoc_url=None)

    @api.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @api.get("/tools")
    async def tools() -> list[dict[str, Any]]:
        return [tool.spec().model_dump(mode="json", exclude_unset=True) for tool in TOOLS.values()]

    @api.get("/counter")
    async def counter() -> Count:
        return Count(calls=world.by_tool.total(), by_tool=dict(sorted(world.by_tool.items())), checks=world.checks)

    @api.post("/sessions", status_code=201)
    async def open_session(body: Opening) -> dict[str, str]:
        return {"session": body.session, "scenario": world.open(body.session, body.scenario).town.name}

    @api.delete("/sessions/{session}", status_code=204)
    async def close_session(session: str) -> Response:
        world.sessions.pop(session, None)
        return Response(status_code=204)

    @api.post("/sessions/{session}/calls")
    async def call(session: str, body: Call, scenario: Annotated[str | None, Query()] = None) -> ToolAnswer:
        return world.call(world.get(session, scenario), body.name, body.arguments)

    @api.post("/sessions/{session}/check")
    async def check(session: str, body: SessionCheck) -> VerdictAnswer:
        return world.check(world.get(session, None), body)

    _add_batches(api, world)
    return api


def _add_batches(api: FastAPI, world: World) -> None:
    """The batch forms. A batch that names an unknown town or session is refused before any of its calls is made."""

    @api.post("/calls")
    async def calls(body: Batch) -> list[ToolAnswer]:
        sessions = [world.get(item.session, item.scenario) for item in body.items]
        return [world.call(session, item.name, item.arguments) for session, item in zip(sessions, body.items, strict=True)]

    @api.post("/checks")
    async def checks(body: Check | Checks) -> VerdictAnswer | list[VerdictAnswer]:
        if isinstance(body, Checks):
            return [world.replay(item) for item in body.items]
        return world.replay(body)
