-- Calibrations of a cache, newest first.
create index jobs_of_a_kind on cache.jobs (cache_id, kind, created_at desc, id desc);
