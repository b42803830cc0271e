-- name: purge
-- Hides what matches from the revisions that follow, in every view. Null filters match everything; the request has at least one.
with gone as (
  update cache.entries e set removed_revision = %(revision)s
  where e.cache_id = %(cache)s and e.removed_revision is null
    and (%(tool)s::text is null or e.tool = %(tool)s)
    and (%(source)s::text is null or e.source = %(source)s)
    and (%(entries)s::text[] is null or e.id = any(%(entries)s))
    and (%(before)s::timestamptz is null or coalesce(e.recorded_at,
      (select min(b.created_at) from cache.batches b where b.cache_id = e.cache_id and b.revision = e.revision), %(since)s) < %(before)s)
  returning e.id
), hidden as (
  update cache.entry_keys k set removed_revision = %(revision)s
  from gone where k.cache_id = %(cache)s and k.entry = gone.id and k.removed_revision is null
)
select count(*) as removed from gone;

-- name: matching
-- What a purge would hide and an erasure would remove; `saw`: the revisions that see any of it, up to the one that is to come.
select count(*) as matched, count(*) filter (where e.removed_revision is null) as visible,
  coalesce(range_agg(int8range(e.revision, coalesce(e.removed_revision, %(revision)s))), '{}')::text as saw
from cache.entries e
where e.cache_id = %(cache)s
  and (%(tool)s::text is null or e.tool = %(tool)s)
  and (%(source)s::text is null or e.source = %(source)s)
  and (%(entries)s::text[] is null or e.id = any(%(entries)s))
  and (%(before)s::timestamptz is null or coalesce(e.recorded_at,
    (select min(b.created_at) from cache.batches b where b.cache_id = e.cache_id and b.revision = e.revision), %(since)s) < %(before)s);

-- name: matching_block
-- Matching entries whole, by id.
select e.id, e.tool, e.arguments, e.result, e.is_error, e.history
from cache.entries e
where e.cache_id = %(cache)s and e.id > %(after)s
  and (%(tool)s::text is null or e.tool = %(tool)s)
  and (%(source)s::text is null or e.source = %(source)s)
  and (%(entries)s::text[] is null or e.id = any(%(entries)s))
  and (%(before)s::timestamptz is null or coalesce(e.recorded_at,
    (select min(b.created_at) from cache.batches b where b.cache_id = e.cache_id and b.revision = e.revision), %(since)s) < %(before)s)
order by e.id limit %(limit)s;

-- name: erase_entries
-- The bytes of entries: rows, keys and embeddings of every view, and what was asked of them and missed.
with erased as (
  delete from cache.entries where cache_id = %(cache)s and id = any(%(entries)s) returning id
), keys as (
  delete from cache.entry_keys k using erased where k.cache_id = %(cache)s and k.entry = erased.id returning k.key
), missed as (
  delete from cache.misses m using keys where m.cache_id = %(cache)s and m.key = keys.key
), compared as (
  update cache.live_divergence d set example = null from erased where d.cache_id = %(cache)s and d.example ->> 'entry' = erased.id
)
select count(*) as erased from erased;

-- name: drop_unreachable_links
-- Histories that no entry points to any more.
with recursive reachable as (
  select e.history as id from cache.entries e where e.cache_id = %(cache)s and e.history is not null
  union
  select h.parent from cache.histories h join reachable r on h.id = r.id where h.cache_id = %(cache)s and h.parent is not null
), dropped as (
  delete from cache.histories h where h.cache_id = %(cache)s and not exists (select from reachable r where r.id = h.id) returning 1
)
select count(*) as dropped from dropped;

-- name: nested_loops
-- Off around statements that walk whole tables: in a young table without statistics the planner takes every join for a small one.
select set_config('enable_nestloop', %(how)s, true);

-- name: links_left
-- Of these links, those that histories of other recordings still need.
select id, parent, tool from cache.histories where cache_id = %(cache)s and id = any(%(ids)s::bytea[]);

-- name: entries_after_links
-- What was recorded right after these links, by these tools.
select e.tool, e.arguments, e.result, e.is_error, e.history from cache.entries e
where e.cache_id = %(cache)s and e.tool = any(%(tools)s::text[])
  and (e.history = any(%(parents)s::bytea[]) or (%(roots)s and e.history is null));

-- name: blank_links
-- What is left of an erased call where others' histories hold it: that something was called and nobody knows what came of it.
update cache.histories set arguments = '{}', mentions = '{}', outcome = 'miss', is_error = true, transient = false
where cache_id = %(cache)s and id = any(%(ids)s::bytea[]);

-- name: move_cache_back
update cache.caches set revision = %(revision)s, entries = entries - %(removed)s, erased = erased + %(saw)s::int8multirange where id = %(cache)s;

-- name: commit_operation
insert into cache.batches (cache_id, id, revision, answer, kind) values (%(cache)s, %(id)s, %(revision)s, %(answer)s::json, %(kind)s);

-- name: follow_removals
-- A view that is about to take over hides what was removed while it was built.
update cache.entry_keys k set removed_revision = e.removed_revision
from cache.entries e
where k.cache_id = %(cache)s and k.view = %(view)s and e.cache_id = %(cache)s and e.id = k.entry
  and e.removed_revision is not null and k.removed_revision is null
  and exists (select from cache.batches b where b.cache_id = %(cache)s and b.kind in ('purge', 'erase'));

-- name: follow_erasures
-- … and forgets what was erased meanwhile.
delete from cache.entry_keys k
where k.cache_id = %(cache)s and k.view = %(view)s and exists (select from cache.caches c where c.id = %(cache)s and not isempty(c.erased))
  and not exists (select from cache.entries e where e.cache_id = %(cache)s and e.id = k.entry);

-- name: hold_view
-- Keeps a view, and so its cache, from being deleted for the rest of the transaction.
select 1 as held from cache.views where id = %(view)s for key share;

-- name: delete_cache
delete from cache.caches where id = %(cache)s;

-- name: delete_entries
delete from cache.entries where cache_id = %(cache)s;

-- name: delete_keys
delete from cache.entry_keys where cache_id = %(cache)s;

-- name: delete_links
delete from cache.histories where cache_id = %(cache)s;

-- name: find_entry
select e.id, e.tool, e.arguments, e.result, e.is_error, e.scenario, e.source, e.step, e.task, e.schema_hash, e.recorded_at, e.revision
from cache.entries e where e.cache_id = %(cache)s and e.id = %(entry)s and e.removed_revision is null;

-- name: revisions
-- Newest first, each with what brought it; a batch that changed nothing made no revision.
select b.id as batch, b.revision, b.kind, b.answer, b.created_at from cache.batches b
where b.cache_id = %(cache)s and (%(before)s::bigint is null or b.revision < %(before)s)
  and b.created_at = (select min(o.created_at) from cache.batches o where o.cache_id = b.cache_id and o.revision = b.revision) and b.revision > 0
order by b.revision desc limit %(limit)s;

-- name: view_ids
-- Views of a cache, built or not, newest first.
select v.id from (
  select id from cache.views where cache_id = %(cache)s union select view from cache.jobs where cache_id = %(cache)s and kind = 'view') v
where %(before)s::text is null or v.id < %(before)s order by v.id desc limit %(limit)s;

-- name: prune_misses
-- The most frequent stay: what is kept of misses is bounded.
delete from cache.misses m where m.cache_id = %(cache)s and m.key in (
  select o.key from cache.misses o where o.cache_id = %(cache)s order by o.count desc, o.key offset %(keep)s);

-- name: missed_tools
select m.tool, sum(m.count)::bigint as misses, count(*) as calls from cache.misses m where m.cache_id = %(cache)s group by m.tool;

-- name: hide_keys
-- Keys of entries that were removed before their view was built.
update cache.entry_keys k set removed_revision = q.revision
from unnest(%(entries)s::text[], %(revisions)s::bigint[]) as q(entry, revision)
where k.cache_id = %(cache)s and k.view = %(view)s and k.entry = q.entry;

-- name: snapshot_view
-- What a view says, without what ties it to its cache: whatever columns later migrations add come along.
select (to_jsonb(v) - '{id,cache_id,tenant,version,covers_from,covers_through,created_at}'::text[])::text as row
from cache.views v where v.id = %(view)s;

-- name: snapshot_tools
select spec::text as spec, schema_hash, since from cache.view_tools where view = %(view)s and since <= %(revision)s order by name;

-- name: snapshot_recorded_tools
select spec::text as spec, schema_hash, least(revision, %(revision)s) as revision from cache.tools
where cache_id = %(cache)s and exists (select from cache.view_tools t where t.view = %(view)s and t.name = tools.name and t.since <= %(revision)s)
order by name, schema_hash;

-- name: snapshot_entries
-- What a revision sees, in the order of the sources.
select e.id, e.tool, e.arguments::text as arguments, e.result::text as result, e.is_error, e.scenario, e.source, e.step, e.task, e.history,
  e.schema_hash, e.recorded_at, e.revision
from cache.entries e
where e.cache_id = %(cache)s and (e.source, e.step) > (%(source)s, %(step)s)
  and e.revision <= %(revision)s and (e.removed_revision is null or e.removed_revision > %(revision)s)
order by e.source, e.step limit %(limit)s;

-- name: snapshot_links
-- Histories from their starts to these links.
with recursive chain as (
  select h.id, h.parent from cache.histories h where h.cache_id = %(cache)s and h.id = any(%(ids)s::bytea[])
  union
  select h.id, h.parent from cache.histories h join chain c on h.id = c.parent where h.cache_id = %(cache)s
)
select h.id, h.parent, h.tool, h.arguments::text as arguments, h.outcome, h.is_error, h.transient, h.mentions
from chain c join cache.histories h on h.cache_id = %(cache)s and h.id = c.id order by h.id;

-- name: view_columns
select column_name as name from information_schema.columns where table_schema = 'cache' and table_name = 'views';

-- name: import_view
insert into cache.views
select (jsonb_populate_record(null::cache.views, %(row)s::jsonb || jsonb_build_object('id', %(view)s::text, 'cache_id', %(cache)s::text,
  'tenant', kit.current_tenant(), 'version', 0, 'covers_from', 0, 'covers_through', null, 'created_at', now()))).*;

-- name: import_view_tools
insert into cache.view_tools (view, name, cache_id, spec, schema_hash, since)
select %(view)s, q.name, %(cache)s, q.spec::json, q.schema_hash, q.since
from unnest(%(names)s::text[], %(specs)s::text[], %(hashes)s::text[], %(since)s::bigint[]) as q(name, spec, schema_hash, since);

-- name: import_recorded_tools
insert into cache.tools (cache_id, name, schema_hash, spec, revision)
select %(cache)s, q.name, q.schema_hash, q.spec::json, q.revision
from unnest(%(names)s::text[], %(hashes)s::text[], %(specs)s::text[], %(revisions)s::bigint[]) as q(name, schema_hash, spec, revision);

-- name: import_entries
insert into cache.entries (id, cache_id, tool, arguments, result, is_error, scenario, source, step, task, history, schema_hash, content_hash,
  recorded_at, revision)
select q.id, %(cache)s, q.tool, q.arguments::json, q.result::json, q.is_error, q.scenario, q.source, q.step, q.task, q.history, q.schema_hash,
  q.content_hash, q.recorded_at, q.revision
from unnest(%(id)s::text[], %(tool)s::text[], %(arguments)s::text[], %(result)s::text[], %(is_error)s::boolean[], %(scenario)s::text[],
  %(source)s::text[], %(step)s::integer[], %(task)s::text[], %(history)s::bytea[], %(schema_hash)s::text[], %(content_hash)s::bytea[],
  %(recorded_at)s::timestamptz[], %(revision)s::bigint[])
  as q(id, tool, arguments, result, is_error, scenario, source, step, task, history, schema_hash, content_hash, recorded_at, revision);

-- name: links_there
select count(*) as there from cache.histories where cache_id = %(cache)s and id = any(%(ids)s::bytea[]);

-- name: begin_from_snapshot
-- The revisions before the snapshot's are not in it.
update cache.caches set revision = %(revision)s, entries = %(entries)s, erased = int8multirange(int8range(0, %(revision)s)) where id = %(cache)s;

-- name: is_readable
-- Whether a revision is still what it was.
select not (%(revision)s::bigint <@ erased) as readable from cache.caches where id = %(cache)s;

-- name: compared
-- By tool: how many answers were compared with live ones, and how many differed.
select tool, sum(compared)::bigint as compared, sum(diverged)::bigint as diverged from cache.live_divergence
where cache_id = %(cache)s group by tool;
