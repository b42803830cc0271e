-- name: live_start
select id, revision, view, settings, erased, version, covers_through, attempts, lost, passed
from cache.live_start(%(tenant)s, %(cache)s, %(view)s, %(sources)s::text[], %(sessions)s::text[], %(placed)s::text[], %(steps)s::integer[]);

-- name: record_live
-- Everything that a group of live calls recorded, in one statement; no row where the view moved.
select n, id, same, revision from cache.record_live(%(tenant)s, %(cache)s, %(view)s, %(version)s, %(batch)s, %(entries)s::json,
  %(arguments)s::text[], %(results)s::text[], %(links)s::json, %(link_arguments)s::text[]);

-- name: exact_seen
-- What a run sees under the full key, or in preset `paper` under tool and arguments alone, grouped by result: its pinned revision (`pinned`) and
-- what it wrote itself since (`mine`). `offset 0` keeps the planner from beginning with the entries, which it does where it knows no statistics.
select q.n - 1 as n, g.*, e.source, e.step, e.recorded_at, e.arguments, e.result
from unnest(%(key)s::bytea[], %(state)s::bytea[], %(scenario)s::text[], %(excluded)s::jsonb[], %(schema_hash)s::text[], %(not_before)s::timestamptz[],
  %(pinned)s::boolean[], %(mine)s::boolean[]) with ordinality as q(key, state, scenario, excluded, schema_hash, not_before, pinned, mine, n)
cross join lateral (
  select k.key, k.result_digest as digest, k.is_error,
    %(paper)s or q.not_before is null or coalesce(k.recorded_at >= q.not_before, false) as fresh,
    %(paper)s or k.schema_hash is null or q.schema_hash is null or k.schema_hash = q.schema_hash as schema_agrees,
    count(*) as support, (array_agg(k.entry order by k.revision, k.entry))[1] as entry
  from cache.entry_keys k
  where k.cache_id = %(cache)s and k.view = %(view)s and k.key = q.key
    and (%(paper)s or (k.scoped_state = q.state and k.scenario = q.scenario)) and not k.transient
    and ((q.pinned and k.revision <= %(revision)s and (k.removed_revision is null or k.removed_revision > %(revision)s))
      or (q.mine and k.revision > %(revision)s and k.removed_revision is null and starts_with(k.source, %(run)s)))
    and not q.excluded ? k.source
  group by 1, 2, 3, 4, 5
) g
cross join lateral (
  select o.source, o.step, o.recorded_at, o.arguments::text as arguments, o.result::text as result
  from cache.entries o where o.cache_id = %(cache)s and o.id = g.entry offset 0
) e;

-- name: take_flights
-- Those of these flights that nobody holds. In order, so that two takers never wait for each other in a circle; what crashed holders left
-- behind long ago goes.
with gone as (
  delete from cache.live_flights
  where cache_id = %(cache)s and lease_until < clock_timestamp() - interval '1 hour' and flight <> all(%(flights)s::bytea[])
)
insert into cache.live_flights (cache_id, flight, holder, lease_until)
select %(cache)s, q.flight, %(holder)s, clock_timestamp() + make_interval(secs => %(lease)s)
from (select flight from unnest(%(flights)s::bytea[]) as f(flight) order by flight) as q
on conflict (cache_id, flight) do update set holder = excluded.holder, lease_until = excluded.lease_until
where live_flights.lease_until < clock_timestamp()
returning flight;

-- name: renew_flights
update cache.live_flights set lease_until = clock_timestamp() + make_interval(secs => %(lease)s)
where cache_id = %(cache)s and flight = any(%(flights)s::bytea[]) and holder = %(holder)s;

-- name: release_flights
delete from cache.live_flights where cache_id = %(cache)s and flight = any(%(flights)s::bytea[]) and holder = %(holder)s;

-- name: spend
-- How many of the wanted calls the run may still make; they count as made.
with before as (
  insert into cache.live_spent (cache_id, run, calls) values (%(cache)s, %(run)s, 0)
  on conflict (cache_id, run) do update set updated_at = now() returning calls
), granted as (
  select greatest(0, least(%(wanted)s::bigint, %(budget)s::bigint - calls)) as calls from before
)
select calls from granted;

-- name: spent
update cache.live_spent set calls = calls + %(calls)s where cache_id = %(cache)s and run = %(run)s;

-- name: lose_sessions
insert into cache.live_lost (cache_id, session) select %(cache)s, s.session from unnest(%(sessions)s::text[]) as s(session)
on conflict (cache_id, session) do nothing;

-- name: find_sessions
delete from cache.live_lost where cache_id = %(cache)s and session = any(%(sessions)s::text[]);

-- name: count_divergence
insert into cache.live_divergence as d (cache_id, tool, tier, compared, diverged, failed, example)
select %(cache)s, q.tool, q.tier, q.compared, q.diverged, q.failed, q.example::json
from unnest(%(tools)s::text[], %(tiers)s::text[], %(compared)s::bigint[], %(diverged)s::bigint[], %(failed)s::bigint[], %(examples)s::text[])
  as q(tool, tier, compared, diverged, failed, example)
order by q.tool, q.tier
on conflict (cache_id, tool, tier) do update set compared = d.compared + excluded.compared, diverged = d.diverged + excluded.diverged,
  failed = d.failed + excluded.failed, example = coalesce(excluded.example, d.example);

-- name: divergence
select tool, tier, compared, diverged, failed, example from cache.live_divergence where cache_id = %(cache)s
order by diverged::float8 / greatest(compared, 1) desc, tool, tier;
