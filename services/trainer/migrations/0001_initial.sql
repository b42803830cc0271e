-- Schema `trainer`: datasets, jobs with their dependencies and events, policies. Records and weights are files; rows say what they are.

create table trainer.datasets (
  id text primary key,
  tenant text not null default kit.current_tenant(),
  name text not null,
  kind text not null check (kind in ('trajectories', 'tasks', 'episodes')),
  format text not null,
  state text not null default 'open' check (state in ('open', 'ready', 'failed')),
  records integer not null default 0,
  imported integer not null default 0,
  repaired integer not null default 0,
  refused integer not null default 0,
  reasons jsonb not null default '{}',
  problems jsonb not null default '[]',
  sha256 text,
  job text,
  created_at timestamptz not null default now()
);
create index datasets_by_name on trainer.datasets (tenant, name, created_at desc, id desc);
select kit.enable_tenancy('trainer.datasets');
comment on column trainer.datasets.problems is 'The first refused lines: [{line, detail}].';

create table trainer.jobs (
  id text primary key,
  tenant text not null default kit.current_tenant(),
  kind text not null,
  queue text not null check (queue in ('cpu', 'gpu')),
  priority integer not null default 0,
  label text,
  spec jsonb not null,
  state text not null check (state in ('blocked', 'queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled')),
  attempt integer not null default 0,
  tries integer not null default 0,
  lease_until timestamptz,
  worker text,
  cancelling boolean not null default false,
  stage text,
  progress jsonb not null default '{"done": 0, "total": null, "unit": "items"}',
  reason jsonb,
  result jsonb not null default '{}',
  key_id text not null,
  scopes text[] not null,
  traceparent text,
  created_at timestamptz not null default now(),
  queued_at timestamptz,
  started_at timestamptz,
  waiting_since timestamptz,
  retry_at timestamptz,
  finished_at timestamptz,
  check ((state = 'running') = (lease_until is not null))
);
create index jobs_newest on trainer.jobs (tenant, created_at desc, id desc);
create index jobs_queued on trainer.jobs (queue, priority desc, created_at, id) where state = 'queued';
create index jobs_open on trainer.jobs (state) where state in ('running', 'waiting');
select kit.enable_tenancy('trainer.jobs');
comment on column trainer.jobs.attempt is 'The fencing token: it grows with every claim, and only its holder writes.';
comment on column trainer.jobs.tries is 'Claims since the job was queued by a person; too many lost leases end it.';

create table trainer.job_dependencies (
  tenant text not null default kit.current_tenant(),
  job text not null references trainer.jobs (id) on delete cascade,
  needs text not null references trainer.jobs (id),
  primary key (job, needs)
);
create index job_dependents on trainer.job_dependencies (needs);
select kit.enable_tenancy('trainer.job_dependencies');

create table trainer.job_events (
  id bigint generated always as identity primary key,
  tenant text not null default kit.current_tenant(),
  job text not null references trainer.jobs (id) on delete cascade,
  attempt integer not null,
  at timestamptz not null default now(),
  kind text not null check (kind in ('state', 'progress', 'metric', 'log')),
  data jsonb not null
);
create index job_events_of on trainer.job_events (job, id);
select kit.enable_tenancy('trainer.job_events');

create table trainer.policies (
  tenant text not null default kit.current_tenant(),
  name text not null,
  version integer not null,
  kind text check (kind in ('adapter', 'full')),
  path text,
  sha256 text,
  job text references trainer.jobs (id),
  attempt integer not null,
  created_at timestamptz not null default now(),
  registered_at timestamptz,
  primary key (tenant, name, version),
  check ((registered_at is null) = (sha256 is null))
);
select kit.enable_tenancy('trainer.policies');
comment on table trainer.policies is
  'A version is reserved before its directory is written and registered afterwards; GRPO reserves one a step and registers the last.';

-- Weights lie under their policy's name, so a name belongs to one tenant. Nobody lists this table; a taken name is all that shows.
create table trainer.policy_names (name text primary key, tenant text not null default kit.current_tenant());
select kit.enable_tenancy('trainer.policy_names');

-- The doors across tenants. Claiming: the most urgent queued job of a queue; its lease begins and its token grows.
create function trainer.claim(of_queue text, by_worker text, lease interval)
returns table (
  id text, tenant text, kind text, spec jsonb, attempt integer, tries integer, key_id text, scopes text[], traceparent text,
  waiting_since timestamptz)
language sql volatile security definer set search_path = pg_catalog
begin atomic
  with chosen as (
    select j.id from trainer.jobs j where j.state = 'queued' and j.queue = of_queue
    order by j.priority desc, j.created_at, j.id limit 1 for update skip locked
  ), claimed as (
    update trainer.jobs j set state = 'running', attempt = j.attempt + 1, tries = j.tries + 1, worker = by_worker,
      lease_until = clock_timestamp() + lease, started_at = coalesce(j.started_at, now()), retry_at = null, stage = null
    from chosen where j.id = chosen.id
    returning j.*
  ), told as (
    insert into trainer.job_events (tenant, job, attempt, kind, data)
    select c.tenant, c.id, c.attempt, 'state', jsonb_build_object('state', 'running', 'attempt', c.attempt) from claimed c
  )
  select c.id, c.tenant, c.kind, c.spec, c.attempt, c.tries, c.key_id, c.scopes, c.traceparent, c.waiting_since from claimed c;
end;

-- Reaping: jobs whose lease ended go back (RUNNING → QUEUED is a lost lease), waiting ones whose time has come too, and what stands queued
-- for long is named again: its message may never have been sent. Jobs that were tried too often, or were to be cancelled, are only
-- named, with the tenant under which the caller ends them.
create function trainer.reap(max_tries integer, long_queued interval)
returns table (id text, tenant text, queue text, attempt integer, verdict text)
language plpgsql volatile security definer set search_path = pg_catalog as $$
begin
  return query
  with expired as (
    select j.id from trainer.jobs j where j.state = 'running' and j.lease_until < clock_timestamp() for update skip locked
  ), ending as (
    select j.id, j.tenant, j.queue, j.attempt, case when j.cancelling then 'cancel' else 'exhausted' end as verdict
    from trainer.jobs j join expired e on e.id = j.id where j.cancelling or j.tries >= max_tries
  ), returned as (
    update trainer.jobs j set state = 'queued', lease_until = null, worker = null, queued_at = now(), stage = 'its worker was lost'
    where j.id in (select e.id from expired e except select x.id from ending x)
    returning j.id, j.tenant, j.queue, j.attempt
  ), awake as (
    update trainer.jobs j set state = 'queued', queued_at = now(), retry_at = null where j.id in (
      select w.id from trainer.jobs w where w.state = 'waiting' and w.retry_at <= now() for update skip locked)
    returning j.id, j.tenant, j.queue, j.attempt
  ), forgotten as (
    update trainer.jobs j set queued_at = now() where j.id in (
      select q.id from trainer.jobs q where q.state = 'queued' and q.queued_at < now() - long_queued
      order by q.priority desc, q.created_at, q.id limit 64 for update skip locked)
    returning j.id, j.tenant, j.queue, j.attempt
  ), told as (
    insert into trainer.job_events (tenant, job, attempt, kind, data)
    select r.tenant, r.id, r.attempt, 'state', jsonb_build_object('state', 'queued') from (table returned union all table awake) r
  )
  select e.id, e.tenant, e.queue, e.attempt, e.verdict from ending e
  union all select r.id, r.tenant, r.queue, r.attempt, 'ring' from (table returned union all table awake union all table forgotten) r;
end
$$;

revoke execute on function trainer.claim(text, text, interval), trainer.reap(integer, interval) from public;
grant execute on function trainer.claim(text, text, interval), trainer.reap(integer, interval) to cacherl_app;
