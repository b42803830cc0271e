-- Schema `rollout`: rollouts and their episodes, the tasks by content, and which policy versions were published.

create table rollout.rollouts (
  id text primary key,
  tenant text not null default kit.current_tenant(),
  state text not null default 'queued',
  request json not null,
  tasks text[] not null,
  total integer not null,
  done integer not null default 0,
  tallies json not null default '{}',
  key_id text not null,
  scopes text[] not null,
  trace json not null,
  fence integer not null default 0,
  crashes integer not null default 0,
  lease_until timestamptz,
  not_before timestamptz not null default now(),
  cancel_requested boolean not null default false,
  reason json,
  created_at timestamptz not null default now(),
  started_at timestamptz,
  finished_at timestamptz
);
create index rollouts_open on rollout.rollouts (not_before) where state in ('queued', 'waiting', 'running');
create index rollouts_listed on rollout.rollouts (tenant, id desc);
comment on column rollout.rollouts.request is 'What was asked for, its nulls resolved, without the tasks: `tasks` has their hashes in order.';
comment on column rollout.rollouts.fence is 'Grows with every claim: who writes with an older one has lost the rollout.';
comment on column rollout.rollouts.crashes is 'Claims of a lease that had run out.';

create table rollout.tasks (
  tenant text not null default kit.current_tenant(),
  hash text not null,
  body bytea not null,
  primary key (tenant, hash)
);
comment on table rollout.tasks is 'zstd of the JSON as it came: a tool''s schema is shown to the policy in the order of its keys.';

create table rollout.episodes (
  seq bigint generated always as identity primary key,
  id text not null unique,
  tenant text not null default kit.current_tenant(),
  rollout text not null references rollout.rollouts (id) on delete cascade,
  "group" integer not null,
  index integer not null,
  task text not null,
  status text not null,
  stop_reason text not null,
  tokens integer not null,
  sampled integer not null,
  ids bytea not null,
  logprobs bytea not null,
  body bytea not null,
  calls jsonb not null,
  created_at timestamptz not null default now(),
  unique (rollout, "group", index)
);
create index episodes_in_order on rollout.episodes (rollout, seq);
-- They are compressed already.
alter table rollout.episodes alter column ids set storage external;
alter table rollout.episodes alter column logprobs set storage external;
alter table rollout.episodes alter column body set storage external;
comment on column rollout.episodes.ids is 'zstd of uint32 little-endian.';
comment on column rollout.episodes.logprobs is 'zstd of float32 little-endian: of the sampled ids, turn after turn; the mask is derived from the spans.';
comment on column rollout.episodes.body is 'zstd of the line''s JSON without ids and log-probs.';
comment on column rollout.episodes.calls is 'What reports ask for: turn, tool, outcome, fidelity, entry, mutating.';

create table rollout.episode_entries (
  tenant text not null default kit.current_tenant(),
  entry text not null,
  episode text not null references rollout.episodes (id) on delete cascade,
  primary key (entry, episode)
);
create index episode_entries_of_episode on rollout.episode_entries (episode);
comment on table rollout.episode_entries is 'Which recordings answered an episode: where one proves wrong, these are to be scored again.';

create table rollout.policies (
  tenant text not null default kit.current_tenant(),
  name text not null,
  version bigint not null,
  kind text not null,
  path text not null,
  sha256 text not null,
  state text not null default 'queued',
  reason json,
  attempt integer not null default 0,
  lease_until timestamptz,
  not_before timestamptz not null default now(),
  created_at timestamptz not null default now(),
  primary key (tenant, name, version)
);
create index policies_open on rollout.policies (not_before) where state in ('queued', 'waiting', 'running');

select kit.enable_tenancy(name::regclass) from unnest(array[
  'rollout.rollouts', 'rollout.tasks', 'rollout.episodes', 'rollout.episode_entries', 'rollout.policies']) name;

-- The doors across tenants: the oldest work that nobody does. A rollout whose owners died too often fails.
create function rollout.claim_rollout(lease interval, max_crashes integer)
returns table (
  id text, tenant text, request json, tasks text[], total integer, done integer, tallies json, key_id text, scopes text[], trace json,
  fence integer, cancel_requested boolean)
language plpgsql security definer set search_path = pg_catalog as $$
begin
  update rollout.rollouts r set state = 'failed', finished_at = now(), reason = json_build_object(
    'type', 'urn:cacherl:problem:too-many-crashes', 'title', 'Given up', 'status', 500,
    'detail', 'the process that played this rollout ended without a word too often')
  where r.state = 'running' and r.lease_until < now() and r.crashes >= max_crashes;
  return query
  update rollout.rollouts r set
    state = 'running', fence = r.fence + 1, crashes = r.crashes + (r.state = 'running')::integer,
    lease_until = now() + lease, started_at = coalesce(r.started_at, now()), reason = null
  where r.id = (
    select o.id from rollout.rollouts o
    where (o.state in ('queued', 'waiting') and o.not_before <= now()) or (o.state = 'running' and o.lease_until < now())
    order by o.not_before, o.id limit 1 for update skip locked)
  returning r.id, r.tenant, r.request, r.tasks, r.total, r.done, r.tallies, r.key_id, r.scopes, r.trace, r.fence, r.cancel_requested;
end
$$;

create function rollout.claim_policy(lease interval)
returns table (tenant text, name text, version bigint, path text, sha256 text, attempt integer)
language sql volatile security definer set search_path = pg_catalog
begin atomic
  update rollout.policies p set state = 'running', attempt = p.attempt + 1, lease_until = now() + lease
  where (p.tenant, p.name, p.version) = (
    select o.tenant, o.name, o.version from rollout.policies o
    where (o.state in ('queued', 'waiting') and o.not_before <= now()) or (o.state = 'running' and o.lease_until < now())
    order by o.not_before limit 1 for update skip locked)
  returning p.tenant, p.name, p.version, p.path, p.sha256, p.attempt;
end;

revoke execute on all functions in schema rollout from public;
grant execute on all functions in schema rollout to cacherl_app;
