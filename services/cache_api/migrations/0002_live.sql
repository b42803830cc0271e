-- Live calls: leases of single flight, budgets, what shadow found.
--
-- `record_live` and `live_start` are the two statements of a live call. Each is a transaction of its own, so they set its tenant themselves;
-- row-level security holds in them as everywhere.

-- A cache by id or name, a view of it (null: its own) as far as a process must know to use the one it has, how many attempts at each of
-- these episodes were recorded, which of these sessions are lost, and which sources have recordings at or past a step.
create function cache.live_start(of_tenant text, of_cache text, of_view text, of_sources text[], of_sessions text[],
  of_placed text[], of_steps integer[])
returns table (id text, revision bigint, view text, settings json, erased int8multirange, version integer, covers_through bigint,
  attempts integer[], lost text[], passed text[])
language plpgsql as $$
begin
  perform set_config('cacherl.tenant', of_tenant, true);
  return query
  select c.id, c.revision, c.view, c.settings, nullif(c.erased, '{}'), v.version, v.covers_through, array(
    select case when exists (select from cache.entries e where e.cache_id = c.id and e.source = s.source) then coalesce((
      select max(k) from generate_series(2, 9) as k
      where exists (select from cache.entries e where e.cache_id = c.id and e.source = s.source || '~' || k)), 1) else 0 end
    from unnest(of_sources) with ordinality as s(source, n) order by s.n),
    array(select l.session from cache.live_lost l where l.cache_id = c.id and l.session = any(of_sessions)),
    array(select p.source from unnest(of_placed, of_steps) as p(source, step)
      where exists (select from cache.entries e where e.cache_id = c.id and e.source = p.source and e.step >= p.step))
  from cache.caches c left join cache.views v on v.id = coalesce(of_view, c.view) and v.cache_id = c.id
  where c.id = of_cache or c.name = of_cache
  order by (c.id = of_cache) desc limit 1;
end
$$;

-- What a group of live calls recorded, in one statement: under the cache's lock it gets one revision. No row: the view is not the cache's, or
-- has grown. A place that was recorded before stays as it is, and `same` says whether it says the same. Arguments and results come as texts
-- beside the rest, so that they are kept byte for byte.
create function cache.record_live(of_tenant text, of_cache text, of_view text, of_version integer, of_batch text, recorded json,
  arguments text[], results text[], links json, link_arguments text[])
returns table (n integer, id text, same boolean, revision bigint)
language plpgsql as $$
declare
  held record;
begin
  perform set_config('cacherl.tenant', of_tenant, true);
  select c.revision, c.view into held from cache.caches c where c.id = of_cache for update;
  -- Looked for after the lock, in a statement of its own: one that waits for a lock sees other tables as they were before it waited.
  if held is null or held.view <> of_view or not exists (select from cache.views v where v.id = of_view and v.version = of_version) then
    return;
  end if;
  return query
  with q as materialized (
    select * from json_to_recordset(recorded) as r(n integer, id text, tool text, is_error boolean, scenario text, source text, step integer,
      task text, history bytea, schema_hash text, content_hash bytea, recorded_at timestamptz, key bytea, identity bytea, scoped_state bytea,
      result_digest bytea, transient boolean, embedding halfvec)
  ), stored as (
    insert into cache.entries (id, cache_id, tool, arguments, result, is_error, scenario, source, step, task, history, schema_hash, content_hash,
      recorded_at, revision)
    select q.id, of_cache, q.tool, arguments[q.n + 1]::json, results[q.n + 1]::json, q.is_error, q.scenario, q.source, q.step, q.task, q.history,
      q.schema_hash, q.content_hash, q.recorded_at, held.revision + 1
    from q
    on conflict (cache_id, source, step) do nothing
    returning entries.id
  ), linked as (
    insert into cache.histories (cache_id, id, parent, tool, arguments, outcome, is_error, transient, mentions)
    select of_cache, l.id, l.parent, l.tool, link_arguments[l.n + 1]::json, l.outcome, l.is_error, l.transient, l.mentions
    from json_to_recordset(links) as l(n integer, id bytea, parent bytea, tool text, outcome text, is_error boolean, transient boolean,
      mentions text[])
    on conflict on constraint histories_pkey do nothing
  ), keyed as (
    insert into cache.entry_keys (cache_id, view, entry, tool, key, identity, scoped_state, scenario, source, task, result_digest, is_error,
      transient, schema_hash, recorded_at, revision, embedding)
    select of_cache, of_view, q.id, q.tool, q.key, q.identity, q.scoped_state, q.scenario, q.source, q.task, q.result_digest, q.is_error,
      q.transient, q.schema_hash, q.recorded_at, held.revision + 1, q.embedding
    from q join stored on stored.id = q.id
  ), moved as (
    update cache.caches c set revision = held.revision + 1, entries = c.entries + (select count(*) from stored)
    where c.id = of_cache and exists (select from stored)
  ), noted as (
    insert into cache.batches (cache_id, id, revision, answer)
    select of_cache, of_batch, held.revision + 1, json_build_object('batch', of_batch, 'read', count(*), 'stored', count(*), 'duplicate', 0,
      'conflicting', 0, 'refused', '[]'::json, 'refused_total', 0, 'revision', held.revision + 1)
    from stored having count(*) > 0
  )
  select q.n, coalesce(stored.id, e.id), stored.id is not null or coalesce(e.content_hash = q.content_hash, false), held.revision + 1
  from q
  left join stored on stored.id = q.id
  left join cache.entries e on stored.id is null and e.cache_id = of_cache and e.source = q.source and e.step = q.step;
end
$$;

create table cache.live_flights (
  cache_id text not null references cache.caches (id) on delete cascade,
  flight bytea not null,
  tenant text not null default kit.current_tenant(),
  holder text not null,
  lease_until timestamptz not null,
  primary key (cache_id, flight)
);
comment on table cache.live_flights is
  'Single flight: who makes a live call for a full key of a run now. The lease is renewed while the call runs; past it anybody may take over.';

create table cache.live_spent (
  cache_id text not null references cache.caches (id) on delete cascade,
  run text not null,
  tenant text not null default kit.current_tenant(),
  calls bigint not null,
  updated_at timestamptz not null default now(),
  primary key (cache_id, run)
);
comment on table cache.live_spent is 'Live calls that runs with a budget have made.';

create table cache.live_lost (
  cache_id text not null references cache.caches (id) on delete cascade,
  session text not null,
  tenant text not null default kit.current_tenant(),
  lost_at timestamptz not null default now(),
  primary key (cache_id, session)
);
comment on table cache.live_lost is
  'Sessions in which a call that may change something got no answer: nobody knows whether it happened, so what they say next is not true.';

create table cache.live_divergence (
  cache_id text not null references cache.caches (id) on delete cascade,
  tool text not null,
  tier text not null,
  tenant text not null default kit.current_tenant(),
  compared bigint not null default 0,
  diverged bigint not null default 0,
  failed bigint not null default 0,
  example json,
  primary key (cache_id, tool, tier)
);
comment on table cache.live_divergence is 'What mode `shadow` found; `example` is the last call that differed.';

select kit.enable_tenancy(name::regclass) from unnest(array[
  'cache.live_flights', 'cache.live_spent', 'cache.live_lost', 'cache.live_divergence']) name;
