-- Datasets --------------------------------------------------------------------------------------------------------------------------

-- name: add_dataset
insert into trainer.datasets (id, name, kind, format, job) values (%(id)s, %(name)s, %(kind)s, %(format)s, %(job)s) returning *;

-- name: dataset
-- By id, or the newest ready one of a name; where none of that name is ready, the newest.
select * from trainer.datasets where id = %(dataset)s or name = %(dataset)s
order by id = %(dataset)s desc, state = 'ready' desc, created_at desc, id desc limit 1;

-- name: lock_dataset
select * from trainer.datasets where id = %(id)s for update;

-- name: finish_dataset
update trainer.datasets set state = %(state)s, format = %(format)s, records = %(records)s, imported = %(imported)s, repaired = %(repaired)s,
  refused = %(refused)s, reasons = %(reasons)s, problems = %(problems)s, sha256 = %(sha256)s
where id = %(id)s and state = 'open' returning *;

-- name: datasets
select * from trainer.datasets where %(before)s::text is null or (created_at, id) < (%(before)s::timestamptz, %(before_id)s)
order by created_at desc, id desc limit %(limit)s;

-- Jobs ------------------------------------------------------------------------------------------------------------------------------

-- name: add_job
insert into trainer.jobs (id, kind, queue, priority, label, spec, state, reason, key_id, scopes, traceparent, queued_at, finished_at)
values (%(id)s, %(kind)s, %(queue)s, %(priority)s, %(label)s, %(spec)s, %(state)s, %(reason)s, %(key_id)s, %(scopes)s, %(traceparent)s,
  case when %(state)s = 'queued' then now() end, case when %(state)s = 'cancelled' then now() end);

-- name: add_dependency
insert into trainer.job_dependencies (job, needs) values (%(job)s, %(needs)s) on conflict do nothing;

-- name: lock_jobs
-- In the order of ids, so that two who lock never wait for each other. A dependency cannot end meanwhile.
select id, state from trainer.jobs where id = any(%(ids)s) order by id for update;

-- name: job
select j.*, array(select d.needs from trainer.job_dependencies d where d.job = j.id order by d.needs) as depends_on
from trainer.jobs j where j.id = %(id)s;

-- name: jobs
select j.*, array(select d.needs from trainer.job_dependencies d where d.job = j.id order by d.needs) as depends_on
from trainer.jobs j where %(before)s::text is null or (created_at, id) < (%(before)s::timestamptz, %(before_id)s)
order by created_at desc, id desc limit %(limit)s;

-- name: move
-- The guarded transition: only from the states that the table allows, and only by the holder of the token where one is given.
update trainer.jobs set
  state = %(state)s,
  reason = %(reason)s,
  result = coalesce(%(result)s, result),
  -- A worker that gave it back in order has not lost it.
  tries = tries - case when %(state)s in ('queued', 'waiting') then 1 else 0 end,
  lease_until = null,
  worker = null,
  retry_at = case when %(state)s = 'waiting' then now() + make_interval(secs => %(retry_s)s) end,
  waiting_since = case when %(state)s = 'waiting' then coalesce(waiting_since, now()) when %(state)s = 'queued' then waiting_since end,
  queued_at = case when %(state)s = 'queued' then now() else queued_at end,
  finished_at = case when %(state)s in ('succeeded', 'failed', 'cancelled') then now() end,
  cancelling = cancelling and %(state)s not in ('succeeded', 'failed', 'cancelled'),
  stage = case when %(state)s in ('queued', 'waiting') then %(stage)s end
where id = %(id)s and state = any(%(before)s) and (%(attempt)s::integer is null or attempt = %(attempt)s)
returning id, queue, attempt;

-- name: reopen
-- A person queues it again: the count of tries begins anew, the token goes on.
update trainer.jobs set state = %(state)s, tries = 0, cancelling = false, reason = null, result = '{}', stage = null, waiting_since = null,
  retry_at = null, finished_at = null, queued_at = case when %(state)s = 'queued' then now() end
where id = %(id)s and state = any(%(before)s) returning id, queue, attempt;

-- name: ask_to_cancel
update trainer.jobs set cancelling = true where id = %(id)s and state = 'running' returning id;

-- name: beat
-- Extends the lease of the token's holder and says whether the job is to be cancelled; no row: the lease is lost.
update trainer.jobs set lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
where id = %(id)s and attempt = %(attempt)s and state = 'running' and lease_until >= clock_timestamp() returning cancelling;

-- name: hold
-- Locks the job's row for its token's holder until the end of the transaction; no row: the lease is lost.
select id from trainer.jobs where id = %(id)s and attempt = %(attempt)s and state = 'running' for update;

-- name: tell_progress
update trainer.jobs set progress = coalesce(%(progress)s, progress), stage = coalesce(%(stage)s, stage)
where id = %(id)s and attempt = %(attempt)s and state = 'running' returning id;

-- name: lock_dependents
-- Blocked jobs that need this one, locked in the order of ids: of two dependencies that end at once the second sees the first.
select j.id from trainer.jobs j where j.state = 'blocked' and j.id in (select job from trainer.job_dependencies where needs = %(id)s)
order by j.id for update;

-- name: unblock
update trainer.jobs j set state = 'queued', queued_at = now() where j.id = any(%(ids)s) and j.state = 'blocked'
  and not exists (select from trainer.job_dependencies d join trainer.jobs n on n.id = d.needs where d.job = j.id and n.state <> 'succeeded')
returning j.id, j.queue, j.attempt;

-- name: cancel_dependents
-- Everything that stands blocked behind this job, however far.
with recursive behind (id) as (
  select job from trainer.job_dependencies where needs = %(id)s
  union select d.job from trainer.job_dependencies d join behind b on d.needs = b.id)
update trainer.jobs j set state = 'cancelled', reason = %(reason)s, finished_at = now()
where j.id in (select id from behind) and j.state = 'blocked' returning j.id, j.queue, j.attempt;

-- name: reblock_dependents
-- What was cancelled only because this job ended badly waits for it again.
with recursive behind (id) as (
  select job from trainer.job_dependencies where needs = %(id)s
  union select d.job from trainer.job_dependencies d join behind b on d.needs = b.id)
update trainer.jobs j set state = 'blocked', reason = null, finished_at = null
where j.id in (select id from behind) and j.state = 'cancelled' and j.reason ->> 'type' = %(upstream)s returning j.id, j.queue, j.attempt;

-- name: claim
select * from trainer.claim(%(queue)s, %(worker)s, make_interval(secs => %(lease_s)s));

-- name: reap
select * from trainer.reap(%(max_tries)s, make_interval(secs => %(long_queued_s)s));

-- Events ----------------------------------------------------------------------------------------------------------------------------

-- name: add_event
insert into trainer.job_events (job, attempt, kind, data) values (%(job)s, %(attempt)s, %(kind)s, %(data)s);

-- name: events
select id, at, kind, data from trainer.job_events where job = %(job)s and id > %(after)s order by id limit %(limit)s;

-- Policies --------------------------------------------------------------------------------------------------------------------------

-- name: take_name
insert into trainer.policy_names (name) values (%(name)s) on conflict do nothing;

-- name: own_name
select name from trainer.policy_names where name = %(name)s for update;

-- name: reserve_version
insert into trainer.policies (name, version, job, attempt)
select %(name)s, coalesce(max(version) + 1, 0), %(job)s, %(attempt)s from trainer.policies where name = %(name)s returning version;

-- name: register_version
update trainer.policies set kind = %(kind)s, path = %(path)s, sha256 = %(sha256)s, registered_at = now()
where name = %(name)s and version = %(version)s and job = %(job)s and attempt = %(attempt)s and registered_at is null returning version;

-- name: policy
select * from trainer.policies where name = %(name)s and registered_at is not null and (%(version)s::integer is null or version = %(version)s)
order by version desc limit 1;

-- name: policies
select distinct on (name) * from trainer.policies where registered_at is not null and (%(after)s::text is null or name > %(after)s)
order by name, version desc limit %(limit)s;

-- name: own_versions
-- Versions that this job reserved and nobody registered: their directories may be removed.
select name, version from trainer.policies where job = %(job)s and registered_at is null;
