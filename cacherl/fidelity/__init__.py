"""How wrong a cache is, measured from outside: some recordings go in, others are replayed against it.

`replayed_call` takes the calls out of trajectories; `measure` asks the service and makes the report; `false_hit` says why an answer was
wrong; `plain_key` is the rule to hold it against; `rate` has the shares and their intervals.
"""
