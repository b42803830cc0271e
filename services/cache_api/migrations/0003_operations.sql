-- Purging, erasing, snapshots: which revisions can no longer be read, and what each revision did.

alter table cache.caches add column erased int8multirange not null default '{}';
comment on column cache.caches.erased is
  'Revisions that cannot be answered as they were: something that was visible at them was erased, or a snapshot that began the cache lacks them.';

alter table cache.batches add column kind text not null default 'record' check (kind in ('record', 'purge', 'erase', 'snapshot'));
create index batches_by_revision on cache.batches (cache_id, revision, created_at);
comment on table cache.batches is 'What was committed, whatever it did; a batch of recordings that is sent again is answered from here.';
