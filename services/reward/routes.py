"""HTTP in and out of the reward service (contracts §5)."""

from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import Counter

from cacherl.advantages import advantages
from cacherl.api.reward import AdvantageAnswer, AdvantageRequest, Presets, ScoreAnswer, ScoreRequest
from cacherl.errors import ConflictError
from cacherl.reward import WEIGHTS, preset_config
from services.kit.auth import Caller, Scope, bearer_token, requires
from services.kit.idempotency import IdempotencyKey, once
from services.kit.postgres import Database
from services.reward.judges.registry import Judges
from services.reward.score import Scorer

SCORES = Counter("cacherl_scores_total", "Episodes by what became of them.", ["status"])
ALARMS = Counter("cacherl_reward_alarms_total", "Batches of advantages with an alarm.", ["alarm"])
Scoring = Annotated[Caller, Depends(requires(Scope.REWARD_SCORE))]
routes = APIRouter(prefix="/v1", tags=["reward"])
log = structlog.get_logger(__name__)


@routes.post("/scores", response_model=ScoreAnswer, summary="Score episodes")
async def score_episodes(request: Request, body: ScoreRequest, caller: Scoring, key: IdempotencyKey = None) -> Response:
    """Scores episodes, one score each, in order: those given whole, then those given by id.

    Without a verdict of the judge an episode is `abstained`, after a failure of the infrastructure `unscorable`: never 0. Where the judge
    is away the request fails with 503 as a whole; what the judge said until then is kept, so asking again is cheap.
    """
    scorer: Scorer = request.app.state.scorer
    token = bearer_token(request.headers.getlist("authorization")) or ""
    # Judging may take minutes: it happens before the transaction that binds the answer to the key.
    answer = await scorer.score(body, caller, token)
    for score in answer.scores:
        SCORES.labels(score.status).inc()
    if key is None:
        return Response(answer.model_dump_json(), media_type="application/json")

    async def act() -> tuple[int, dict[str, Any]]:
        return 200, answer.model_dump(mode="json")

    database: Database = request.app.state.database
    async with database.tenant(caller.tenant) as connection:
        return await once(connection, caller=caller, route="POST /v1/scores", key=key, body=await request.body(), act=act)


@routes.post("/advantages", response_model=AdvantageAnswer, summary="Turn groups of scores into advantages")
async def compute_advantages(body: AdvantageRequest, caller: Scoring) -> Response:
    """Advantages of groups of scores, null where an episode was not scored. A pure function of the body: repeating it changes nothing."""
    config = body.resolved
    if body.config_hash != config.config_hash:
        raise ConflictError("The scores come from another configuration than the one given.", slug="mixed-configurations")
    answer = advantages(body.groups, config, body.estimator)
    for alarm in answer.alarms:
        ALARMS.labels(alarm).inc()
    log.log(
        30 if answer.alarms else 20, "advantages", action="advantages", tenant=caller.tenant, alarms=answer.alarms, **answer.diagnostics
    )
    return Response(answer.model_dump_json(), media_type="application/json")


@routes.get("/presets", summary="The named configurations and the judges")
async def list_presets(request: Request, caller: Scoring) -> Presets:
    """The presets with their hashes, the process terms with their weights, and the judges that this service has."""
    judges: Judges = request.app.state.judges
    presets = {name: preset_config(name) for name in WEIGHTS}
    return Presets(
        presets=presets,
        hashes={name: config.config_hash for name, config in presets.items()},
        judges=judges.names,
        extras={"process_weights": {name: dict(weights) for name, weights in WEIGHTS.items()}},
    )
