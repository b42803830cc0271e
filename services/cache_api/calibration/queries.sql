-- name: keyed_tools
-- The tools of a view with how many of their recordings may be replayed.
select k.tool, count(*) as entries from cache.entry_keys k
where k.cache_id = %(cache)s and k.view = %(view)s and k.revision <= %(revision)s and k.removed_revision is null and not k.transient
group by k.tool order by k.tool;

-- name: scenario_tasks
-- How many tasks each scenario belongs to; a recording without a task is a task of its own.
select k.scenario, count(distinct coalesce(k.task, k.source)) as tasks from cache.entry_keys k
where k.cache_id = %(cache)s and k.view = %(view)s and k.revision <= %(revision)s and k.removed_revision is null group by k.scenario;

-- name: task_calls
select coalesce(k.task, k.source) as task, count(*) as calls from cache.entry_keys k
where k.cache_id = %(cache)s and k.view = %(view)s and k.tool = %(tool)s and k.revision <= %(revision)s and k.removed_revision is null
  and not k.transient
group by 1;

-- name: drawn_calls
-- What is replayed of a tool: every recording of some tasks, as the view sees it.
select k.key, k.identity, k.scoped_state, k.scenario, k.source, coalesce(k.task, k.source) as task, k.result_digest as digest, e.arguments
from cache.entry_keys k join cache.entries e on e.cache_id = k.cache_id and e.id = k.entry
where k.cache_id = %(cache)s and k.view = %(view)s and k.tool = %(tool)s and k.revision <= %(revision)s and k.removed_revision is null
  and not k.transient and coalesce(k.task, k.source) = any(%(tasks)s::text[])
order by k.entry;

-- name: kept_calls
-- All recordings at some places, grouped by call and result, a page in the order of their places from a row on.
select g.identity, g.scoped_state, g.scenario, g.key, g.digest, g.support, e.arguments
from (
  select p.n, k.identity, k.scoped_state, k.scenario, k.key, k.result_digest as digest, count(*) as support, min(k.entry) as entry
  from unnest(%(identity)s::bytea[], %(state)s::bytea[], %(scenario)s::text[]) with ordinality as p(identity, state, scenario, n)
  cross join lateral (
    select o.identity, o.scoped_state, o.scenario, o.key, o.result_digest, o.entry from cache.entry_keys o
    where o.cache_id = %(cache)s and o.view = %(view)s and o.identity = p.identity and o.scoped_state = p.state and o.scenario = p.scenario
      and o.tool = %(tool)s and o.revision <= %(revision)s and o.removed_revision is null and not o.transient
      and (p.n, o.key, o.result_digest) > (%(after)s, %(key)s::bytea, %(digest)s::bytea)
    offset 0) k
  where p.n >= %(after)s
  group by 1, 2, 3, 4, 5, 6
  order by p.n, k.key, k.result_digest limit %(limit)s
) g
join cache.entries e on e.cache_id = %(cache)s and e.id = g.entry
order by g.n, g.key, g.digest;

-- name: noise
-- Neighbouring runs that had the same history and made the same call: how many were compared, and how many differed.
select count(*) filter (where p.differs) as differing, count(*) as compared
from (
  select k.result_digest <> lag(k.result_digest) over w as differs, k.source <> lag(k.source) over w as elsewhere
  from cache.entry_keys k join cache.entries e on e.cache_id = k.cache_id and e.id = k.entry
  where k.cache_id = %(cache)s and k.view = %(view)s and k.revision <= %(revision)s and k.removed_revision is null and not k.transient
  window w as (partition by e.history, k.scenario, k.key order by k.entry)
) p
where p.elsewhere;

-- name: list_calibrations
select j.id, j.cache_id, j.state, j.done, j.total, j.view, j.result, j.error from cache.jobs j
where j.cache_id = %(cache)s and j.kind = 'calibration' order by j.created_at desc, j.id desc limit %(limit)s;
