-- What learning reads and keeps.

-- name: entries_to_learn
-- Entries that are not removed, as their sources made them, from a place on.
select e.tool, e.arguments, e.result, e.is_error, e.scenario, e.source, e.step, e.task, e.history
from cache.entries e
where e.cache_id = %(cache)s and (e.source, e.step) > (%(source)s, %(step)s) and e.revision <= %(through)s and e.removed_revision is null
order by e.source, e.step limit %(limit)s;

-- name: arguments_of
-- Some recorded arguments of a tool.
select e.arguments from cache.entries e
where e.cache_id = %(cache)s and e.tool = %(tool)s and e.removed_revision is null order by e.id limit %(limit)s;

-- name: keep_learning
update cache.views set learning = %(learning)s::json where id = %(view)s;

-- name: learning
select learning from cache.views where id = %(view)s;
