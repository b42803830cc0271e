-- Search. A cache may do without vectors: then the exact tier alone answers.
alter table cache.caches alter column embedder drop not null;
alter table cache.entry_keys alter column embedding drop not null;

-- The exact tier in one round trip: the tenant, what the request is pinned to, and the candidates of every question, in one snapshot.
-- The answer is {"pins": […], "found": [[place, key, digest, is_error, fresh, schema_agrees, support, entry, source, step, recorded_at,
-- result], …]}, or null where the tenant has no such cache with such a view. `cache` and `view` are what the caller takes them for; `called`
-- is what the request names the cache. A question is [key, scoped state, scenario, excluded sources, schema hash, not before]; bytes are
-- hexadecimal. Its plans are fixed: they can only look keys up, whatever the tables' statistics say, and planning costs more than looking.
create function cache.look(tenant text, cache text, called text, view text, revision bigint, robust boolean, questions jsonb)
returns json language plpgsql stable set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  pins record;
  at bigint;
  found json;
begin
  perform set_config('cacherl.tenant', look.tenant, true);
  select c.revision, c.view, c.erased <> '{}' as erased, v.version, v.covers_from, v.covers_through into pins
  from cache.caches c join cache.views v on v.cache_id = c.id
  where c.id = look.cache and look.called in (c.id, c.name) and v.id = look.view;
  if pins.revision is null then
    return null;
  end if;
  at := coalesce(look.revision, pins.covers_through, pins.revision);
  if look.robust then
    select json_agg(json_build_array(u.n - 1, encode(g.key, 'hex'), encode(g.digest, 'hex'), g.is_error, g.fresh, g.schema_agrees, g.support,
      g.entry, e.source, e.step, e.recorded_at, e.result::text)) into found
    from jsonb_array_elements(look.questions) with ordinality u(q, n)
    cross join lateral (
      select k.key, k.result_digest as digest, k.is_error,
        u.q->5 = 'null' or coalesce(k.recorded_at >= (u.q->>5)::timestamptz, false) as fresh,
        k.schema_hash is null or u.q->4 = 'null' or k.schema_hash = u.q->>4 as schema_agrees,
        count(*) as support, (array_agg(k.entry order by k.revision, k.entry))[1] as entry
      from cache.entry_keys k
      where k.cache_id = look.cache and k.view = look.view and k.key = decode(u.q->>0, 'hex') and k.scoped_state = decode(u.q->>1, 'hex')
        and k.scenario = u.q->>2 and k.revision <= at and (k.removed_revision is null or k.removed_revision > at) and not k.transient
        and not u.q->3 ? k.source
      group by 1, 2, 3, 4, 5
    ) g
    join cache.entries e on e.cache_id = look.cache and e.id = g.entry;
  else
    select json_agg(json_build_array(u.n - 1, encode(g.key, 'hex'), encode(g.digest, 'hex'), g.is_error, true, true, g.support,
      g.entry, e.source, e.step, e.recorded_at, e.result::text)) into found
    from jsonb_array_elements(look.questions) with ordinality u(q, n)
    cross join lateral (
      select k.key, k.result_digest as digest, k.is_error, count(*) as support,
        (array_agg(k.entry order by k.revision, k.entry))[1] as entry
      from cache.entry_keys k
      where k.cache_id = look.cache and k.view = look.view and k.key = decode(u.q->>0, 'hex')
        and k.revision <= at and (k.removed_revision is null or k.removed_revision > at) and not k.transient and not u.q->3 ? k.source
      group by 1, 2, 3
    ) g
    join cache.entries e on e.cache_id = look.cache and e.id = g.entry;
  end if;
  return json_build_object(
    'pins', json_build_array(pins.revision, pins.view, pins.erased, pins.version, pins.covers_from, pins.covers_through),
    'found', coalesce(found, '[]'));
end
$$;
revoke execute on function cache.look(text, text, text, text, bigint, boolean, jsonb) from public;
grant execute on function cache.look(text, text, text, text, bigint, boolean, jsonb) to cacherl_app;
