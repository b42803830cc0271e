-- What a view learnt: scopes, resource groups, canonicalisers.

alter table cache.views add column learning json;
comment on column cache.views.learning is
  'How many comparisons a scope took and what replaying the recordings against themselves showed; null where nothing was learned. Evidence of single tools stands with their specs.';
