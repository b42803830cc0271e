-- Schema `cache`: recorded calls (raw, immutable), the views that read them, and what was asked of them.
-- The large tables are hash-partitioned by cache: a fixed number, so that throw-away caches make no partitions.

create table cache.caches (
  id text primary key,
  tenant text not null default kit.current_tenant(),
  name text not null,
  revision bigint not null default 0,
  view text not null,
  entries bigint not null default 0,
  embedder text not null,
  dimension integer not null,
  settings json not null,
  created_at timestamptz not null default now(),
  unique (tenant, name)
);
comment on column cache.caches.revision is 'Grows with every committed batch, under this row''s lock: revisions commit in order.';

create table cache.batches (
  cache_id text not null references cache.caches (id) on delete cascade,
  id text not null,
  tenant text not null default kit.current_tenant(),
  revision bigint not null,
  answer json not null,
  created_at timestamptz not null default now(),
  primary key (cache_id, id)
);
comment on table cache.batches is 'Committed batches alone; the same batch again is answered from here.';

create table cache.tools (
  cache_id text not null references cache.caches (id) on delete cascade,
  name text not null,
  schema_hash text not null,
  tenant text not null default kit.current_tenant(),
  spec json not null,
  revision bigint not null,
  primary key (cache_id, name, schema_hash)
);
comment on table cache.tools is 'Every schema of a tool that was recorded or given; `revision` is the batch that brought it last.';

create table cache.entries (
  id text not null,
  cache_id text not null,
  tenant text not null default kit.current_tenant(),
  tool text not null,
  arguments json not null,
  result json not null,
  is_error boolean not null,
  scenario text not null,
  source text not null,
  step integer not null,
  task text,
  history bytea,
  schema_hash text,
  content_hash bytea not null,
  recorded_at timestamptz,
  revision bigint not null,
  removed_revision bigint,
  primary key (cache_id, id),
  unique (cache_id, source, step)
) partition by hash (cache_id);
create index entries_by_tool on cache.entries (cache_id, tool, id);
comment on table cache.entries is 'Recorded calls: `json`, not `jsonb`, keeps a result byte for byte. A lookup at r sees revision <= r < removed_revision.';

create table cache.histories (
  cache_id text not null,
  id bytea not null,
  tenant text not null default kit.current_tenant(),
  parent bytea,
  tool text not null,
  arguments json not null,
  outcome text not null,
  is_error boolean not null,
  transient boolean not null,
  mentions text[] not null,
  primary key (id, cache_id)
) partition by hash (cache_id);
comment on table cache.histories is
  'A call and, through `parent`, the calls before it, addressed by content. `mentions`: the identifiers of its result, all that a state needs of it.';

create table cache.views (
  id text primary key,
  cache_id text not null references cache.caches (id) on delete cascade,
  tenant text not null default kit.current_tenant(),
  given json not null,
  version integer not null default 0,
  covers_from bigint not null default 0,
  covers_through bigint,
  calibration json,
  created_at timestamptz not null default now()
);
comment on column cache.views.covers_through is 'Null while the view is the cache''s present one (it grows with the cache) or is being built.';
comment on column cache.views.version is 'Grows when tools are added; a tool that a view has never changes in it.';

create table cache.view_tools (
  view text not null references cache.views (id) on delete cascade,
  name text not null,
  cache_id text not null,
  tenant text not null default kit.current_tenant(),
  spec json not null,
  schema_hash text,
  since bigint not null,
  primary key (view, name)
);

create table cache.entry_keys (
  cache_id text not null,
  view text not null,
  entry text not null,
  tenant text not null default kit.current_tenant(),
  tool text not null,
  key bytea not null,
  identity bytea not null,
  scoped_state bytea,
  scenario text not null,
  source text not null,
  task text,
  result_digest bytea not null,
  is_error boolean not null,
  transient boolean not null,
  schema_hash text,
  recorded_at timestamptz,
  revision bigint not null,
  removed_revision bigint,
  embedding halfvec(384) not null,
  primary key (entry, view, cache_id)
) partition by hash (cache_id);
-- Each index begins with what tells its queries apart. One that began with the view would look as good as any other to a planner without
-- statistics (a young table, PostgreSQL 18's skip scans), and the wrong one reads the whole view for every call.
create index entry_keys_exact on cache.entry_keys (key, view, scoped_state, scenario);
create index entry_keys_alike on cache.entry_keys (identity, view, scoped_state, scenario);
create index entry_keys_tool on cache.entry_keys (tool, view);
comment on table cache.entry_keys is
  'What one view sees of an entry: derived, rebuilt for every new view. `identity`: digest of the arguments that name a thing; `scoped_state` null: unknown.';

do $$
begin
  for part in 0..7 loop
    execute format('create table cache.entries_%s partition of cache.entries for values with (modulus 8, remainder %s)', part, part);
    execute format('create table cache.histories_%s partition of cache.histories for values with (modulus 8, remainder %s)', part, part);
    execute format('create table cache.entry_keys_%s partition of cache.entry_keys for values with (modulus 8, remainder %s)', part, part);
  end loop;
end
$$;

create table cache.jobs (
  id text primary key,
  cache_id text not null references cache.caches (id) on delete cascade,
  tenant text not null default kit.current_tenant(),
  kind text not null check (kind in ('view', 'calibration')),
  request json not null,
  state text not null default 'queued',
  attempt integer not null default 0,
  lease_until timestamptz,
  done double precision not null default 0,
  total double precision,
  view text,
  result json,
  error text,
  created_at timestamptz not null default now(),
  finished_at timestamptz
);
create index jobs_open on cache.jobs (cache_id, id) where state in ('queued', 'running');
comment on table cache.jobs is 'Building a view, calibrating: one at a time for a cache, under a lease; `attempt` is the fencing token.';

create table cache.lookup_counts (
  cache_id text not null references cache.caches (id) on delete cascade,
  tool text not null,
  outcome text not null,
  tenant text not null default kit.current_tenant(),
  count bigint not null,
  primary key (cache_id, tool, outcome)
);

create table cache.misses (
  cache_id text not null references cache.caches (id) on delete cascade,
  key bytea not null,
  tenant text not null default kit.current_tenant(),
  tool text not null,
  arguments json not null,
  count bigint not null,
  primary key (cache_id, key)
);
create index misses_most on cache.misses (cache_id, count desc, key);

select kit.enable_tenancy(name::regclass) from unnest(array[
  'cache.caches', 'cache.batches', 'cache.tools', 'cache.entries', 'cache.histories', 'cache.views', 'cache.view_tools', 'cache.entry_keys',
  'cache.jobs', 'cache.lookup_counts', 'cache.misses']) name;

-- The one door across tenants: the oldest job that nobody works on, one at a time for a cache. A job that was tried too often fails.
create function cache.claim_job(lease interval, max_attempts integer)
returns table (id text, tenant text, cache_id text, kind text, request json, attempt integer)
language plpgsql security definer set search_path = pg_catalog as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('cache.claim_job', 0));
  update cache.jobs j set state = 'failed', error = 'given up after too many attempts', finished_at = now()
  where j.state = 'running' and j.lease_until < now() and j.attempt >= max_attempts;
  return query
  update cache.jobs j set state = 'running', attempt = j.attempt + 1, lease_until = now() + lease
  where j.id = (
    select c.id from cache.jobs c
    where (c.state = 'queued' or (c.state = 'running' and c.lease_until < now()))
      and not exists (select from cache.jobs o where o.cache_id = c.cache_id and o.state = 'running' and o.lease_until >= now())
    order by c.created_at, c.id limit 1)
  returning j.id, j.tenant, j.cache_id, j.kind, j.request, j.attempt;
end
$$;
revoke execute on function cache.claim_job(interval, integer) from public;
grant execute on function cache.claim_job(interval, integer) to cacherl_app;
