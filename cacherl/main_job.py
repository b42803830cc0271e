"""The main job on this machine: a local system is started, a plan is run on it, the report is written, and nothing is left running."""

import asyncio
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cacherl.client import Client
from cacherl.pipeline.facts import RunFacts
from cacherl.pipeline.plan import RunPlan
from cacherl.pipeline.run import LiveCount, Run
from cacherl.pipeline.state import RunState, load
from cacherl.pipeline.watch import Display
from cacherl.report.build import build
from cacherl.report.model import Report
from cacherl.report.write import write
from cacherl.runtime import Runtime, system

LEFT_BY_A_RUN = ("system", "episodes", "report.json", "report.html", "run.json")


def execute(
    plan: RunPlan,
    out: Path,
    *,
    live_servers: Mapping[str, str] | None = None,
    live_count: LiveCount | None = None,
    live_away: str | None = None,
    extra_data: Mapping[str, Any] | None = None,
) -> Report:
    """Runs a plan on a local system of its own in `<out>/system` and writes the report. Resumes where it was cut off, or starts clean.

    `live_away` says why there are no live tools; `extra_data` is what is known of the data beside what importing counts.
    """
    with Display() as display:
        state = begin(plan, out, display)
        began = time.monotonic()
        display.step("start the system")
        with system(out / "system", live_servers=live_servers, context=plan.model.context, reuse=False) as runtime:
            state.seconds.setdefault("start the system", time.monotonic() - began)
            display.step("start the system", finished=True)
            facts = asyncio.run(_run(plan, runtime, out, state, display, live_count))
        facts.data.update(extra_data or {})
        report = build(facts, install_s=_install_seconds(), total_s=time.time() - state.started, live_away=live_away)
        write(report, out)
        state.finished = True
        state.save(out)
        display.say(f"[bold green]done[/]: {out / 'report.html'}")
    return report


def begin(plan: RunPlan, out: Path, display: Display) -> RunState:
    """The run's state: resumed, or new with what an earlier run left cleared away. Says which."""
    out.mkdir(parents=True, exist_ok=True)
    state, decided = load(out, plan.digest)
    display.say(f"[bold]{plan.name}[/] → {out}: {decided}")
    if not state.values:
        for left in LEFT_BY_A_RUN:
            path = out / left
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        state.save(out)
    return state


async def _run(plan: RunPlan, runtime: Runtime, out: Path, state: RunState, display: Display, live_count: LiveCount | None) -> RunFacts:
    async with Client(runtime.urls, runtime.key) as client:
        return await Run(plan, client, out, state, display, live_count=live_count)()


def _install_seconds() -> float | None:
    path = Path(sys.prefix) / ".install-seconds"
    return float(path.read_text(encoding="utf-8")) if path.exists() else None
