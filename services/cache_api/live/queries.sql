-- name: sources_present
-- Which of these sources a cache has recordings of.
select q.source from unnest(%(sources)s::text[]) as q(source)
where exists (select from cache.entries e where e.cache_id = %(cache)s and e.source = q.source);

-- name: record_live
-- Everything that a group of live calls recorded, in one statement; no row where the view moved.
select n, id, same, revision from cache.record_live(%(cache)s, %(view)s, %(version)s, %(entries)s::json, %(arguments)s::text[], %(results)s::text[],
  %(links)s::json, %(link_arguments)s::text[]);
