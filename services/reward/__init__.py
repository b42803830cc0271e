"""The reward service: scores episodes and turns scores into advantages. The arithmetic is `cacherl.reward` and `cacherl.advantages`.

app         the application           routes      HTTP in and out
score       a request into scores     judge       what any judge is; verdicts kept and reused
judges/     facts, llm                episodes    episodes by id, from the rollout service
verdicts    the judge cache           settings    judges by name: no caller names a URL
"""
