-- The judge cache. The tenant is set by the transaction.

-- name: find_verdicts
-- Those of the given keys that have a verdict.
select key, rating from reward.verdicts where key = any(%(keys)s);

-- name: keep_verdict
-- The first verdict on a key stands: a replica that asked at the same time reads the other's rating.
insert into reward.verdicts as kept (key, judge, model, rating, tokens)
values (%(key)s, %(judge)s, %(model)s, %(rating)s, %(tokens)s)
on conflict (tenant, key) do update set rating = kept.rating
returning rating;
