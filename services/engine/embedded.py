"""The embedded engine: a process that serves small Qwen3 policies on a CPU, over HTTP.

    python -m services.engine.embedded --port P --weights-root DIR [--threads 1] [--rows 128] [--context 1024]

`POST /generate` takes a batch and streams completions as NDJSON in the order in which they finish; what is wrong with the batch is
said before the stream starts (problem+json, RFC 9457), what fails inside is its last line, `{"problem": {…}}`. Closing the stream
aborts. `POST /policies` loads weights from below the weights root, `GET /info` says what is held, `POST /forget` lets go of episodes;
`GET /healthz`, `GET /metrics`. Port 0 takes a free one; the address is the first line on standard output.
It promises the seam of `cacherl.engine` and never answers as a version that it does not hold.
"""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import orjson
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cacherl.engine import Completion, EngineInfo, GenerationRequest, PolicyVersion
from cacherl.errors import CacheRLError, ConflictError, InputError, NotFoundError
from services.engine.loop import EngineLoop
from services.engine.weights import Qwen3Weights, read_policy

log = logging.getLogger(__name__)

BODY_BYTES = 64 * 2**20
Body = TypeVar("Body", bound=BaseModel)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LOOP: web.AppKey[EngineLoop] = web.AppKey("loop", EngineLoop)
ROOT: web.AppKey[Path] = web.AppKey("root", Path)


class GenerateBody(BaseModel):
    """A batch for one policy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: PolicyVersion
    requests: list[GenerationRequest] = Field(min_length=1)


class PolicyBody(PolicyVersion):
    """Weights to load: `path` is a directory below the weights root, `sha256` that of its model.safetensors."""

    path: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9A-Fa-f]{64}$")


class ForgetBody(BaseModel):
    """Episodes that are finished."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    episodes: list[str]


class Stream:
    """The answers of one call, carried from the model thread to the event loop that waits for them."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[bytes | CacheRLError] = asyncio.Queue()

    def deliver(self, completions: Sequence[Completion]) -> None:
        """Queues completions; from the model thread."""
        for completion in completions:
            self._put(completion.model_dump_json().encode() + b"\n")

    def fail(self, error: CacheRLError) -> None:
        """Queues the failure; from the model thread."""
        self._put(error)

    async def next(self) -> bytes | CacheRLError:
        """The next line, or why there is none."""
        return await self._lines.get()

    def _put(self, item: bytes | CacheRLError) -> None:
        self._loop.call_soon_threadsafe(self._lines.put_nowait, item)


async def generate(request: web.Request) -> web.StreamResponse:
    """`POST /generate`."""
    body = await _body(request, GenerateBody)
    loop = request.app[LOOP]
    check_batch(body, loop.held)
    stream = Stream()
    response = web.StreamResponse(headers={"content-type": "application/x-ndjson"})
    await response.prepare(request)
    ticket = loop.submit(body.policy, body.requests, stream)
    try:
        for _ in body.requests:
            line = await stream.next()
            if isinstance(line, CacheRLError):
                await response.write(orjson.dumps({"problem": line.problem(request.path)}) + b"\n")
                break
            await response.write(line)
        await response.write_eof()
    finally:
        loop.abort(ticket)
    return response


def check_batch(body: GenerateBody, held: Mapping[PolicyVersion, Qwen3Weights]) -> None:
    """Refuses a batch that could not be sampled.

    Raises:
        ConflictError: `policy-not-held`.
        InputError: An empty prefix, an id outside of the vocabulary, or two requests of one id; every one is listed.
    """
    weights = held.get(body.policy)
    if weights is None:
        names = ", ".join(map(str, held)) or "none"
        raise ConflictError(f"{body.policy} is not held (held: {names}): load it with POST /policies", slug="policy-not-held")
    vocabulary, seen, errors = weights.shape.vocabulary, set[str](), list[dict[str, str]]()
    for index, item in enumerate(body.requests):
        if not item.ids:
            errors.append({"pointer": f"#/requests/{index}/ids", "detail": "the prefix is empty"})
        elif min(item.ids) < 0 or max(item.ids) >= vocabulary:
            errors.append({"pointer": f"#/requests/{index}/ids", "detail": f"an id is outside of the vocabulary [0, {vocabulary})"})
        if item.id in seen:
            errors.append({"pointer": f"#/requests/{index}/id", "detail": "the id is used twice"})
        seen.add(item.id)
    if errors:
        raise InputError(f"{len(errors)} requests cannot be sampled: {errors[0]['detail']}", errors=list(errors))


async def load_policy(request: web.Request) -> web.Response:
    """`POST /policies`."""
    body = await _body(request, PolicyBody)
    policy = PolicyVersion(name=body.name, version=body.version)
    loop = request.app[LOOP]
    held = loop.held.get(policy)
    if held is None or held.sha256 != body.sha256.lower():
        weights = await asyncio.to_thread(read_policy, policy_directory(request.app[ROOT], body.path), body.sha256)
        await asyncio.wrap_future(loop.hold(policy, weights))
    return _json(describe(loop))


def policy_directory(root: Path, path: str) -> Path:
    """The directory below the weights root.

    Raises:
        InputError: It lies outside of the root (`..`, an absolute path, a link that leads out).
        NotFoundError: There is none.
    """
    directory = (root / path).resolve()
    if directory == root or not directory.is_relative_to(root):
        raise InputError(f"{path!r} does not lie below the weights root: give a path relative to it", slug="path-outside-root")
    if not directory.is_dir():
        raise NotFoundError(f"there is no directory {path!r} below the weights root")
    return directory


def describe(loop: EngineLoop) -> EngineInfo:
    """What the engine is and holds; the vocabulary is that of the policy used last."""
    held = loop.held
    last = list(held.values())[-1] if held else None
    return EngineInfo(
        kind="embedded",
        policies=list(held),
        context_length=min([loop.context, *(weights.shape.context for weights in held.values())]),
        vocabulary=last.shape.vocabulary if last else None,
        seeded=True,
    )


async def info(request: web.Request) -> web.Response:
    """`GET /info`."""
    return _json(describe(request.app[LOOP]))


async def forget(request: web.Request) -> web.Response:
    """`POST /forget`."""
    body = await _body(request, ForgetBody)
    request.app[LOOP].forget(body.episodes)
    return web.Response(status=204)


async def healthz(_: web.Request) -> web.Response:
    """`GET /healthz`."""
    return web.json_response({"status": "ok"})


async def metrics(request: web.Request) -> web.Response:
    """`GET /metrics`, in the Prometheus text format."""
    load = request.app[LOOP].load
    values = {
        "steps_total": ("counter", "Steps of all batches.", load.counts.steps),
        "generated_tokens_total": ("counter", "Tokens sampled.", load.counts.generated),
        "prefilled_tokens_total": ("counter", "Prefix tokens computed.", load.counts.prefilled),
        "reused_tokens_total": ("counter", "Prefix tokens found in the cache.", load.counts.reused),
        "rows_live": ("gauge", "Rows that are generating.", load.live),
        "requests_waiting": ("gauge", "Requests without a row.", load.waiting),
    }
    lines = [f"# HELP cacherl_engine_{n} {h}\n# TYPE cacherl_engine_{n} {t}\ncacherl_engine_{n} {v}\n" for n, (t, h, v) in values.items()]
    return web.Response(text="".join(lines), headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns errors into problem+json."""
    try:
        return await handler(request)
    except CacheRLError as error:
        return _problem(error, request)
    except web.HTTPException as error:
        wrapped = CacheRLError(error.reason, slug="http-error", title=error.reason)
        return _problem(wrapped, request, error.status)
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return _problem(CacheRLError("the engine met something that it did not expect; its log has the trace"), request)


async def _body(request: web.Request, model: type[Body]) -> Body:
    try:
        return model.model_validate_json(await request.read())
    except ValidationError as error:
        errors = [{"pointer": "#/" + "/".join(map(str, item["loc"])), "detail": item["msg"]} for item in error.errors(include_url=False)]
        raise InputError(f"the body is not valid: {errors[0]['pointer']}: {errors[0]['detail']}", errors=list(errors)) from error


def _json(value: BaseModel) -> web.Response:
    return web.Response(text=value.model_dump_json(), content_type="application/json")


def _problem(error: CacheRLError, request: web.Request, status: int | None = None) -> web.Response:
    body = error.problem(request.path) | {"status": status or error.status}
    return web.Response(status=status or error.status, body=orjson.dumps(body), content_type="application/problem+json")


def application(loop: EngineLoop, root: Path) -> web.Application:
    """The HTTP face of one model thread."""
    app = web.Application(client_max_size=BODY_BYTES, middlewares=[problems])
    app[LOOP], app[ROOT] = loop, root.resolve()
    app.add_routes(
        [
            web.post("/generate", generate),
            web.post("/policies", load_policy),
            web.post("/forget", forget),
            web.get("/info", info),
            web.get("/healthz", healthz),
            web.get("/metrics", metrics),
        ]
    )
    return app


async def serve(host: str, port: int, loop: EngineLoop, root: Path) -> None:
    """Serves until SIGTERM or SIGINT; streams that are open then are cut."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(application(loop, root), handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        sys.stdout.write(f"http://{host}:{runner.addresses[0][1]}\n")
        sys.stdout.flush()
        await stop.wait()
    finally:
        await runner.cleanup()


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m services.engine.embedded", description="Serve small Qwen3 policies on a CPU.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True, help="0: any free one")
    parser.add_argument("--weights-root", type=Path, required=True, help="policies are read from below it")
    parser.add_argument("--threads", type=int, default=1, help="threads of the forward pass")
    parser.add_argument("--rows", type=int, default=128, help="requests that are stepped together")
    parser.add_argument("--context", type=int, default=1024, help="ids of an episode at most")
    args = parser.parse_args(argv)
    if not args.weights_root.is_dir():
        parser.error(f"--weights-root {args.weights_root} is not a directory")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    loop = EngineLoop(rows=args.rows, context=args.context, threads=args.threads)
    asyncio.run(serve(args.host, args.port, loop, args.weights_root))
    loop.close()


if __name__ == "__main__":
    main()
