-- A cache of which something was erased keeps its short way: what counts is whether the revision that is asked for saw what is gone.
create or replace function cache.look(tenant text, cache text, called text, view text, revision bigint, robust boolean, questions jsonb)
returns json language plpgsql stable set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  pins record;
  at bigint;
  found json;
begin
  perform set_config('cacherl.tenant', look.tenant, true);
  select c.revision, c.view, c.erased, v.version, v.covers_from, v.covers_through into pins
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
    'pins', json_build_array(pins.revision, pins.view, pins.erased @> at, pins.version, pins.covers_from, pins.covers_through),
    'found', coalesce(found, '[]'));
end
$$;
