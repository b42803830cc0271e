"""What a reader must know beside the numbers: which claims the intervals allow and which they do not, in words made from the figures."""

from cacherl.intervals import Ci
from cacherl.pipeline.facts import RunFacts
from cacherl.report.model import Report

NAMES = {
    "base": "the untrained base",
    "sft": "SFT",
    "sft_continued": "SFT continued",
    "sft_accepted": "SFT on accepted",
    "grpo": "GRPO",
    "recipe": "the whole recipe",
}
METRICS = {"success": "live success, sampled", "success_greedy": "live success, greedy", "validation_reward": "validation reward"}


def notes(report: Report, facts: RunFacts, live_away: str | None) -> list[str]:
    """Sentences for the top of the report."""
    headline = [pair for pair in report.paired if pair.metric.startswith("success")] or report.paired
    found = [_claim(pair.a, pair.b, pair.metric, pair.difference) for pair in headline]
    if live_away:
        found.append(f"Success with live tools is null: {live_away}.")
    calls = report.live_calls
    if calls.while_training is not None:
        found.append(
            f"The live world counted {calls.while_training} calls while the policies were trained; "
            f"{calls.served_from_cache} calls of the training rollouts were served from the cache instead."
        )
    if report.cache.false_hit_rate is not None:
        found.append(f"Of the cached answers that were held against the live world, {report.cache.false_hit_rate:.2%} differed.")
    flaws = facts.data.get("flaws")
    if flaws:
        found.append(f"The demonstrations are flawed on purpose, in shares fixed beforehand: {flaws}.")
    if "replayed" in facts.data:
        found.append(str(facts.data["replayed"]))
    return found


def _claim(a: str, b: str, metric: str, difference: Ci) -> str:
    size = f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
    if difference.low > 0:
        verdict = "is above"
    elif difference.high < 0:
        verdict = "is below"
    else:
        verdict = "cannot be told from"
    name = NAMES[a]
    return f"{name[0].upper()}{name[1:]} {verdict} {NAMES[b]} on {METRICS[metric]}: {size}, {difference.n} tasks."
