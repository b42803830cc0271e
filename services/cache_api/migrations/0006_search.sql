-- Search. A cache may do without vectors: then the exact tier alone answers.
alter table cache.caches alter column embedder drop not null;
alter table cache.entry_keys alter column embedding drop not null;
