-- name: live_start
select id, revision, view, settings, erased, version, covers_through, attempts
from cache.live_start(%(tenant)s, %(cache)s, %(view)s, %(sources)s::text[]);

-- name: record_live
-- Everything that a group of live calls recorded, in one statement; no row where the view moved.
select n, id, same, revision from cache.record_live(%(tenant)s, %(cache)s, %(view)s, %(version)s, %(batch)s, %(entries)s::json,
  %(arguments)s::text[], %(results)s::text[], %(links)s::json, %(link_arguments)s::text[]);
