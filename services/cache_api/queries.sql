-- name: create_cache
insert into cache.caches (id, name, view, embedder, dimension, settings)
values (%(id)s, %(name)s, %(view)s, %(embedder)s, %(dimension)s, %(settings)s::json)
on conflict (tenant, name) do nothing
returning id;

-- name: find_cache
-- By id or by name; an id wins. `erased`: revisions that are gone, null for none.
select id, name, revision, view, entries, embedder, dimension, settings, created_at, nullif(erased, '{}') as erased
from cache.caches where id = %(cache)s or name = %(cache)s
order by (id = %(cache)s) desc limit 1;

-- name: list_caches
select id, name, revision, view, entries, embedder, dimension, settings, created_at
from cache.caches where %(after)s::text is null or id > %(after)s order by id limit %(limit)s;

-- name: lock_cache
-- The short lock under which a batch gets its revision and a view takes over. The view's version is read after it, in a statement of its own:
-- one that waits for the lock sees other tables as they were before it waited.
select revision, view from cache.caches where id = %(cache)s for update;

-- name: move_cache
update cache.caches set revision = %(revision)s, entries = entries + %(stored)s where id = %(cache)s;

-- name: switch_view
update cache.caches set view = %(view)s where id = %(cache)s;

-- name: create_view
insert into cache.views (id, cache_id, given) values (%(id)s, %(cache)s, %(given)s::json);

-- name: view
select v.id, v.cache_id, v.version, v.covers_from, v.covers_through, v.given, v.calibration, v.learning, c.embedder
from cache.views v join cache.caches c on c.id = v.cache_id where v.id = %(view)s;

-- name: view_version
select cache_id, version, covers_through from cache.views where id = %(view)s;

-- name: view_tools
select name, spec, schema_hash, since from cache.view_tools where view = %(view)s order by name;

-- name: add_view_tools
insert into cache.view_tools (view, name, cache_id, spec, schema_hash, since)
select %(view)s, q.name, %(cache)s, q.spec::json, q.schema_hash, %(since)s
from unnest(%(names)s::text[], %(specs)s::text[], %(hashes)s::text[]) as q(name, spec, schema_hash);

-- name: grow_view
update cache.views set version = version + 1 where id = %(view)s;

-- name: close_view
update cache.views set covers_through = %(revision)s where id = %(view)s;

-- name: calibrate_view
update cache.views set calibration = %(calibration)s::json where id = %(view)s;

-- name: keep_tools
insert into cache.tools (cache_id, name, schema_hash, spec, revision)
select %(cache)s, q.name, q.schema_hash, q.spec::json, %(revision)s
from unnest(%(names)s::text[], %(hashes)s::text[], %(specs)s::text[]) as q(name, schema_hash, spec)
on conflict (cache_id, name, schema_hash) do update set revision = excluded.revision;

-- name: newest_tools
-- The schema of each tool that was recorded last; one that says something before one that says nothing.
select distinct on (name) name, spec from cache.tools where cache_id = %(cache)s
order by name, (schema_hash = '') , revision desc, schema_hash;

-- name: claim_batch
select answer from cache.batches where cache_id = %(cache)s and id = %(batch)s;

-- name: commit_batch
insert into cache.batches (cache_id, id, revision, answer) values (%(cache)s, %(batch)s, %(revision)s, %(answer)s::json);

-- name: insert_entries
-- What is there already, by source and step, stays as it is. Columns come as JSON arrays, bytes in hexadecimal: the driver's own arrays cost
-- more than everything else of an ingestion.
insert into cache.entries (id, cache_id, tool, arguments, result, is_error, scenario, source, step, task, history, schema_hash, content_hash,
  recorded_at, revision)
select q.id, %(cache)s, q.tool, q.arguments::json, q.result::json, q.is_error::boolean, q.scenario, q.source, q.step::integer, q.task,
  decode(q.history, 'hex'), q.schema_hash, decode(q.content_hash, 'hex'), q.recorded_at::timestamptz, %(revision)s
from rows from (json_array_elements_text(%(id)s::json), json_array_elements_text(%(tool)s::json), json_array_elements_text(%(arguments)s::json),
  json_array_elements_text(%(result)s::json), json_array_elements_text(%(is_error)s::json), json_array_elements_text(%(scenario)s::json),
  json_array_elements_text(%(source)s::json), json_array_elements_text(%(step)s::json), json_array_elements_text(%(task)s::json),
  json_array_elements_text(%(history)s::json), json_array_elements_text(%(schema_hash)s::json), json_array_elements_text(%(content_hash)s::json),
  json_array_elements_text(%(recorded_at)s::json))
  as q(id, tool, arguments, result, is_error, scenario, source, step, task, history, schema_hash, content_hash, recorded_at)
on conflict (cache_id, source, step) do nothing
returning id;

-- name: contradicted
-- Of entries that were there already, those that said something else.
select q.n - 1 as n
from rows from (json_array_elements_text(%(source)s::json), json_array_elements_text(%(step)s::json), json_array_elements_text(%(content_hash)s::json))
  with ordinality as q(source, step, content_hash, n)
join cache.entries e on e.cache_id = %(cache)s and e.source = q.source and e.step = q.step::integer
where e.content_hash <> decode(q.content_hash, 'hex');

-- name: insert_links
insert into cache.histories (cache_id, id, parent, tool, arguments, outcome, is_error, transient, mentions)
select %(cache)s, decode(q.id, 'hex'), decode(q.parent, 'hex'), q.tool, q.arguments::json, q.outcome, q.is_error::boolean, q.transient::boolean,
  array(select json_array_elements_text(q.mentions::json))
from rows from (json_array_elements_text(%(id)s::json), json_array_elements_text(%(parent)s::json), json_array_elements_text(%(tool)s::json),
  json_array_elements_text(%(arguments)s::json), json_array_elements_text(%(outcome)s::json), json_array_elements_text(%(is_error)s::json),
  json_array_elements_text(%(transient)s::json), json_array_elements_text(%(mentions)s::json))
  as q(id, parent, tool, arguments, outcome, is_error, transient, mentions)
on conflict (id, cache_id) do nothing;

-- name: insert_keys
-- Ordered by tool: a search reads the rows of one tool, and finds many of them on a page.
insert into cache.entry_keys (cache_id, view, entry, tool, key, identity, scoped_state, scenario, source, task, result_digest, is_error, transient,
  schema_hash, recorded_at, revision, embedding)
select %(cache)s, %(view)s, q.entry, q.tool, decode(q.key, 'hex'), decode(q.identity, 'hex'), decode(q.scoped_state, 'hex'), q.scenario, q.source,
  q.task, decode(q.result_digest, 'hex'), q.is_error::boolean, q.transient::boolean, q.schema_hash, q.recorded_at::timestamptz, q.revision::bigint,
  q.embedding::halfvec
from rows from (json_array_elements_text(%(entry)s::json), json_array_elements_text(%(tool)s::json), json_array_elements_text(%(key)s::json),
  json_array_elements_text(%(identity)s::json), json_array_elements_text(%(scoped_state)s::json), json_array_elements_text(%(scenario)s::json),
  json_array_elements_text(%(source)s::json), json_array_elements_text(%(task)s::json), json_array_elements_text(%(result_digest)s::json),
  json_array_elements_text(%(is_error)s::json), json_array_elements_text(%(transient)s::json), json_array_elements_text(%(schema_hash)s::json),
  json_array_elements_text(%(recorded_at)s::json), json_array_elements_text(%(revision)s::json), json_array_elements_text(%(embedding)s::json))
  as q(entry, tool, key, identity, scoped_state, scenario, source, task, result_digest, is_error, transient, schema_hash, recorded_at, revision,
    embedding)
order by q.tool
on conflict (entry, view, cache_id) do nothing;

-- name: conflicting
-- Of these new entries, those whose full key had another result before them. A scalar subquery: the planner can only look each key up, never
-- join the whole view.
select count((
  select 1 from cache.entry_keys o
  where o.cache_id = %(cache)s and o.view = %(view)s and o.key = decode(q.key, 'hex') and o.scoped_state = decode(q.scoped_state, 'hex')
    and o.scenario = q.scenario and o.result_digest <> decode(q.result_digest, 'hex') and (o.revision < %(revision)s or o.entry < q.entry)
  limit 1)) as conflicting
from rows from (json_array_elements_text(%(entry)s::json), json_array_elements_text(%(key)s::json), json_array_elements_text(%(scoped_state)s::json),
  json_array_elements_text(%(scenario)s::json), json_array_elements_text(%(result_digest)s::json))
  as q(entry, key, scoped_state, scenario, result_digest);

-- name: exact_robust
-- The full key, grouped by result; the excluded sources are left out before anything is counted. `fresh`: within the tool's ttl.
-- A lateral group for each question: the planner can only look its key up, never join the whole view.
select q.n - 1 as n, g.*, e.source, e.step, e.recorded_at, e.arguments::text as arguments, e.result::text as result
from unnest(%(key)s::bytea[], %(state)s::bytea[], %(scenario)s::text[], %(excluded)s::jsonb[], %(schema_hash)s::text[], %(not_before)s::timestamptz[])
  with ordinality as q(key, state, scenario, excluded, schema_hash, not_before, n)
cross join lateral (
  select k.key, k.result_digest as digest, k.is_error,
    q.not_before is null or coalesce(k.recorded_at >= q.not_before, false) as fresh,
    k.schema_hash is null or q.schema_hash is null or k.schema_hash = q.schema_hash as schema_agrees,
    count(*) as support, (array_agg(k.entry order by k.revision, k.entry))[1] as entry
  from cache.entry_keys k
  where k.cache_id = %(cache)s and k.view = %(view)s and k.key = q.key and k.scoped_state = q.state and k.scenario = q.scenario
    and k.revision <= %(revision)s and (k.removed_revision is null or k.removed_revision > %(revision)s) and not k.transient
    and not q.excluded ? k.source
  group by 1, 2, 3, 4, 5
) g
join cache.entries e on e.cache_id = %(cache)s and e.id = g.entry;

-- name: exact_paper
-- Tool and arguments alone.
select q.n - 1 as n, g.*, true as fresh, true as schema_agrees, e.source, e.step, e.recorded_at, e.arguments::text as arguments,
  e.result::text as result
from unnest(%(key)s::bytea[], %(excluded)s::jsonb[]) with ordinality as q(key, excluded, n)
cross join lateral (
  select k.key, k.result_digest as digest, k.is_error, count(*) as support,
    (array_agg(k.entry order by k.revision, k.entry))[1] as entry
  from cache.entry_keys k
  where k.cache_id = %(cache)s and k.view = %(view)s and k.key = q.key
    and k.revision <= %(revision)s and (k.removed_revision is null or k.removed_revision > %(revision)s) and not k.transient
    and not q.excluded ? k.source
  group by 1, 2, 3
) g
join cache.entries e on e.cache_id = %(cache)s and e.id = g.entry;

-- name: near_robust
-- The nearest recorded calls of equal identity, scenario and scoped state, each with its results. `materialized`: a vector is read once, not per row.
with q as materialized (
  select n, identity, state, scenario, excluded, schema_hash, not_before, embedding::halfvec as vector
  from unnest(%(identity)s::bytea[], %(state)s::bytea[], %(scenario)s::text[], %(excluded)s::jsonb[], %(schema_hash)s::text[],
    %(not_before)s::timestamptz[], %(embedding)s::text[])
    with ordinality as u(identity, state, scenario, excluded, schema_hash, not_before, embedding, n)
)
select q.n - 1 as n, c.key, c.distance, g.digest, g.is_error, g.fresh, g.schema_agrees, g.support, g.entry, e.source, e.step, e.recorded_at,
  e.arguments::text as arguments, e.result::text as result
from q
cross join lateral (
  select near.key, min(near.distance) as distance from (
  select k.key, k.embedding <=> q.vector as distance
  from cache.entry_keys k
  where k.cache_id = %(cache)s and k.view = %(view)s and k.identity = q.identity and k.scoped_state = q.state and k.scenario = q.scenario
    and k.revision <= %(revision)s and (k.removed_revision is null or k.removed_revision > %(revision)s) and not k.transient
    and not q.excluded ? k.source
  order by distance, k.entry limit %(rows)s) near
  group by near.key order by distance, near.key limit %(limit)s
) c
cross join lateral (
  select k.result_digest as digest, k.is_error,
    q.not_before is null or coalesce(k.recorded_at >= q.not_before, false) as fresh,
    k.schema_hash is null or q.schema_hash is null or k.schema_hash = q.schema_hash as schema_agrees,
    count(*) as support, (array_agg(k.entry order by k.revision, k.entry))[1] as entry
  from cache.entry_keys k
  where k.cache_id = %(cache)s and k.view = %(view)s and k.key = c.key and k.scoped_state = q.state and k.scenario = q.scenario
    and k.revision <= %(revision)s and (k.removed_revision is null or k.removed_revision > %(revision)s) and not k.transient
    and not q.excluded ? k.source
  group by 1, 2, 3, 4
) g
join cache.entries e on e.cache_id = %(cache)s and e.id = g.entry;

-- name: near_paper
-- The nearest recorded calls of the same tool, each with its results.
with q as materialized (
  select n, tool, excluded, embedding::halfvec as vector
  from unnest(%(tool)s::text[], %(excluded)s::jsonb[], %(embedding)s::text[]) with ordinality as u(tool, excluded, embedding, n)
)
select q.n - 1 as n, c.key, c.distance, g.digest, g.is_error, true as fresh, true as schema_agrees, g.support, g.entry, e.source, e.step,
  e.recorded_at, e.arguments::text as arguments, e.result::text as result
from q
cross join lateral (
  select near.key, min(near.distance) as distance from (
  select k.key, k.embedding <=> q.vector as distance
  from cache.entry_keys k
  where k.cache_id = %(cache)s and k.view = %(view)s and k.tool = q.tool
    and k.revision <= %(revision)s and (k.removed_revision is null or k.removed_revision > %(revision)s) and not k.transient
    and (q.excluded = '[]' or not q.excluded ? k.source)
  order by distance, k.entry limit %(rows)s) near
  group by near.key order by distance, near.key limit %(limit)s
) c
cross join lateral (
  select k.result_digest as digest, k.is_error, count(*) as support, (array_agg(k.entry order by k.revision, k.entry))[1] as entry
  from cache.entry_keys k
  where k.cache_id = %(cache)s and k.view = %(view)s and k.key = c.key
    and k.revision <= %(revision)s and (k.removed_revision is null or k.removed_revision > %(revision)s) and not k.transient
    and not q.excluded ? k.source
  group by 1, 2
) g
join cache.entries e on e.cache_id = %(cache)s and e.id = g.entry;

-- name: same_call_elsewhere
-- For `explain`: the same call in other states and scenarios.
select q.n - 1 as n, count(*) filter (where k.scenario = q.scenario) as other_state, count(*) filter (where k.scenario <> q.scenario) as other_scenario
from unnest(%(key)s::bytea[], %(scenario)s::text[], %(excluded)s::jsonb[]) with ordinality as q(key, scenario, excluded, n)
join cache.entry_keys k on k.cache_id = %(cache)s and k.view = %(view)s and k.key = q.key
where k.revision <= %(revision)s and (k.removed_revision is null or k.removed_revision > %(revision)s) and not q.excluded ? k.source
group by q.n;

-- name: list_entries
select e.id, e.tool, e.arguments, e.result, e.is_error, e.scenario, e.source, e.step, e.task, e.schema_hash, e.recorded_at, e.revision
from cache.entries e
where e.cache_id = %(cache)s and e.removed_revision is null and (%(tool)s::text is null or e.tool = %(tool)s)
  and (%(after)s::text is null or e.id > %(after)s)
order by e.id limit %(limit)s;

-- name: tool_counts
select k.tool, count(*) as entries, count(distinct k.key) as keys, count(*) filter (where k.is_error) as errors
from cache.entry_keys k where k.cache_id = %(cache)s and k.view = %(view)s and k.removed_revision is null group by k.tool;

-- name: conflict_counts
-- Full keys with more than one result.
select tool, count(*) as conflicting from (
  select k.tool from cache.entry_keys k
  where k.cache_id = %(cache)s and k.view = %(view)s and k.removed_revision is null and not k.transient
  group by k.tool, k.key, k.scoped_state, k.scenario having count(distinct k.result_digest) > 1) c
group by tool;

-- name: count_lookups
insert into cache.lookup_counts (cache_id, tool, outcome, count)
select %(cache)s, q.tool, q.outcome, q.count from unnest(%(tools)s::text[], %(outcomes)s::text[], %(counts)s::bigint[]) as q(tool, outcome, count)
on conflict (cache_id, tool, outcome) do update set count = lookup_counts.count + excluded.count;

-- name: count_misses
insert into cache.misses (cache_id, key, tool, arguments, count)
select %(cache)s, q.key, q.tool, q.arguments::json, q.count
from unnest(%(keys)s::bytea[], %(tools)s::text[], %(arguments)s::text[], %(counts)s::bigint[]) as q(key, tool, arguments, count)
on conflict (cache_id, key) do update set count = misses.count + excluded.count;

-- name: lookup_counts
select tool, outcome, count from cache.lookup_counts where cache_id = %(cache)s order by tool, outcome;

-- name: most_missed
select tool, arguments, count from cache.misses where cache_id = %(cache)s order by count desc, key limit %(limit)s;

-- name: add_job
insert into cache.jobs (id, cache_id, kind, request, view) values (%(id)s, %(cache)s, %(kind)s, %(request)s::json, %(view)s);

-- name: claim_job
select * from cache.claim_job(make_interval(secs => %(lease)s), %(attempts)s);

-- name: find_job
select j.id, j.cache_id, j.kind, j.state, j.done, j.total, j.view, j.result, j.error, v.covers_from, v.covers_through
from cache.jobs j left join cache.views v on v.id = j.view where j.cache_id = %(cache)s and j.id = %(job)s and j.kind = %(kind)s;

-- name: beat_job
update cache.jobs set lease_until = now() + make_interval(secs => %(lease)s), done = %(done)s, total = %(total)s
where id = %(job)s and state = 'running' and attempt = %(attempt)s returning id;

-- name: finish_job
update cache.jobs set state = %(state)s, result = %(result)s::json, error = %(error)s, finished_at = now(), done = coalesce(total, done)
where id = %(job)s and state = 'running' and attempt = %(attempt)s returning id;

-- name: drop_view
delete from cache.views where id = %(view)s and cache_id = %(cache)s;

-- name: drop_keys
delete from cache.entry_keys where cache_id = %(cache)s and view = %(view)s;

-- name: entries_in_order
-- For building a view: entries as their sources made them, from a place on.
select e.id, e.tool, e.arguments, e.result, e.is_error, e.scenario, e.source, e.step, e.task, e.history, e.schema_hash, e.recorded_at, e.revision,
  e.removed_revision
from cache.entries e
where e.cache_id = %(cache)s and (e.source, e.step) > (%(source)s, %(step)s) and e.revision > %(after)s and e.revision <= %(through)s
order by e.source, e.step limit %(limit)s;

-- name: chains
-- Histories from their starts to these links.
with recursive chain as (
  select h.id, h.parent from cache.histories h where h.cache_id = %(cache)s and h.id = any(%(ids)s::bytea[])
  union
  select h.id, h.parent from cache.histories h join chain c on h.id = c.parent where h.cache_id = %(cache)s
)
select h.id, h.parent, h.tool, h.arguments, h.outcome, h.is_error, h.transient, h.mentions
from chain c join cache.histories h on h.cache_id = %(cache)s and h.id = c.id;

-- name: count_entries
select count(*) as entries from cache.entries where cache_id = %(cache)s and revision > %(after)s and revision <= %(through)s;

-- name: sources_of_episode
-- What was recorded of an episode, whichever attempt: its calls in order.
select source, tool, arguments, result, is_error, step from cache.entries
where cache_id = %(cache)s and source = any(%(sources)s::text[]) order by source, step;

-- name: entries_at
select q.n - 1 as n, e.id, e.recorded_at from unnest(%(source)s::text[], %(step)s::integer[]) with ordinality as q(source, step, n)
join cache.entries e on e.cache_id = %(cache)s and e.source = q.source and e.step = q.step;
