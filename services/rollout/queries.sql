-- name: add_rollout
insert into rollout.rollouts (id, request, tasks, total, key_id, scopes, trace)
values (%(id)s, %(request)s, %(tasks)s, %(total)s, %(key_id)s, %(scopes)s, %(trace)s);

-- name: add_tasks
-- Hashes come sorted, so that two rollouts with the same tasks never wait for each other in a circle.
insert into rollout.tasks (hash, body) select * from unnest(%(hashes)s::text[], %(bodies)s::bytea[]) on conflict do nothing;

-- name: tasks
select hash, body from rollout.tasks where hash = any(%(hashes)s);

-- name: find_rollout
select * from rollout.rollouts where id = %(id)s;

-- name: list_rollouts
select * from rollout.rollouts where (%(before)s::text is null or id < %(before)s) order by id desc limit %(limit)s;

-- name: rollout_state
select state from rollout.rollouts where id = %(id)s;

-- name: claim_rollout
select * from rollout.claim_rollout(make_interval(secs => %(lease)s), %(crashes)s);

-- name: beat_rollout
update rollout.rollouts set lease_until = now() + make_interval(secs => %(lease)s)
where id = %(id)s and state = 'running' and fence = %(fence)s returning cancel_requested;

-- name: advance_rollout
-- The fence of every batch of episodes: no row, no write.
update rollout.rollouts set done = %(done)s, tallies = %(tallies)s, lease_until = now() + make_interval(secs => %(lease)s)
where id = %(id)s and state = 'running' and fence = %(fence)s returning cancel_requested;

-- name: end_rollout
update rollout.rollouts set state = %(state)s, reason = %(reason)s, finished_at = now(), lease_until = null
where id = %(id)s and state = 'running' and fence = %(fence)s returning id;

-- name: put_back_rollout
update rollout.rollouts set
  state = %(state)s, reason = %(reason)s, lease_until = null, not_before = now() + make_interval(secs => %(seconds)s)
where id = %(id)s and state = 'running' and fence = %(fence)s returning id;

-- name: cancel_rollout
update rollout.rollouts set
  cancel_requested = true,
  state = case when state in ('queued', 'waiting', 'blocked') then 'cancelled' else state end,
  finished_at = case when state in ('queued', 'waiting', 'blocked') then now() else finished_at end
where id = %(id)s and state not in ('succeeded', 'failed', 'cancelled') returning *;

-- name: finished_episodes
select "group", index from rollout.episodes where rollout = %(id)s;

-- name: add_episode
insert into rollout.episodes (id, rollout, "group", index, task, status, stop_reason, tokens, sampled, ids, logprobs, body, calls)
values (
  %(id)s, %(rollout)s, %(group)s, %(index)s, %(task)s, %(status)s, %(stop_reason)s, %(tokens)s, %(sampled)s, %(ids)s, %(logprobs)s,
  %(body)s, %(calls)s);

-- name: add_entries
insert into rollout.episode_entries (entry, episode) select * from unnest(%(entries)s::text[], %(episodes)s::text[]) on conflict do nothing;

-- name: episode_seq
select seq from rollout.episodes where rollout = %(rollout)s and id = %(id)s;

-- name: episode_position
select seq from rollout.episodes where id = %(id)s;

-- name: episodes_after
select seq, task, ids, logprobs, body from rollout.episodes where rollout = %(rollout)s and seq > %(after)s order by seq limit %(limit)s;

-- name: episodes_of_entry
select e.seq, e.task, e.ids, e.logprobs, e.body from rollout.episode_entries x join rollout.episodes e on e.id = x.episode
where x.entry = %(entry)s and e.seq > %(after)s order by e.seq limit %(limit)s;

-- name: episodes_by_id
select seq, task, ids, logprobs, body from rollout.episodes where id = any(%(ids)s) and seq > %(after)s order by seq limit %(limit)s;

-- name: add_policy
insert into rollout.policies (name, version, kind, path, sha256) values (%(name)s, %(version)s, %(kind)s, %(path)s, %(sha256)s)
on conflict (tenant, name, version) do update set state = 'queued', reason = null, attempt = 0, not_before = now(), lease_until = null
where policies.state in ('failed', 'cancelled') and policies.sha256 = excluded.sha256;

-- name: find_policy
select * from rollout.policies where name = %(name)s and version = %(version)s;

-- name: list_policies
select * from rollout.policies where (%(after)s::text is null or (name, version) > (%(after)s, %(version)s)) order by name, version limit %(limit)s;

-- name: claim_policy
select * from rollout.claim_policy(make_interval(secs => %(lease)s));

-- name: move_policy
update rollout.policies set
  state = %(state)s, reason = %(reason)s, not_before = now() + make_interval(secs => %(seconds)s), lease_until = null
where name = %(name)s and version = %(version)s and state = 'running' and attempt = %(attempt)s returning name;
