-- Search. A cache may do without vectors: then the exact tier alone answers.
alter table cache.caches alter column embedder drop not null;
alter table cache.entry_keys alter column embedding drop not null;

-- The exact tier in one round trip: the tenant, what the request is pinned to, and the candidates of every question, in one snapshot.
-- The first row holds the pins and nothing else; no row: there is no such cache or view. A question is
-- [key, scoped state, scenario, excluded sources, schema hash, not before], bytes in hexadecimal; `n` is its place.
-- A fixed plan: it can only look keys up, whatever the tables' statistics say, and planning costs more than looking.
create function cache.look(for_tenant text, cache text, wanted_view text, wanted_revision bigint, robust boolean, questions jsonb)
returns table (pins json, n integer, key bytea, digest bytea, is_error boolean, fresh boolean, schema_agrees boolean, support bigint,
  entry text, source text, step integer, recorded_at timestamptz, result text)
language plpgsql stable set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  c record;
  v record;
  at bigint;
begin
  perform set_config('cacherl.tenant', for_tenant, true);
  select o.id, o.revision, o.view, o.erased into c
  from cache.caches o where o.id = look.cache or (o.tenant = for_tenant and o.name = look.cache) order by (o.id = look.cache) desc limit 1;
  select o.id, o.cache_id, o.version, o.covers_from, o.covers_through into v from cache.views o where o.id = coalesce(wanted_view, c.view);
  if c.id is null or v.id is null then
    return;
  end if;
  at := coalesce(wanted_revision, v.covers_through, c.revision);
  pins := json_build_array(c.id, c.revision, c.view, c.erased <> '{}', v.id, v.cache_id, v.version, v.covers_from, v.covers_through);
  return next;
  if robust then
    return query
    select null::json, u.n::integer - 1, g.key, g.digest, g.is_error, g.fresh, g.schema_agrees, g.support, g.entry, e.source, e.step,
      e.recorded_at, e.result::text
    from jsonb_array_elements(questions) with ordinality u(q, n)
    cross join lateral (
      select k.key, k.result_digest as digest, k.is_error,
        u.q->5 = 'null' or coalesce(k.recorded_at >= (u.q->>5)::timestamptz, false) as fresh,
        k.schema_hash is null or u.q->4 = 'null' or k.schema_hash = u.q->>4 as schema_agrees,
        count(*) as support, (array_agg(k.entry order by k.revision, k.entry))[1] as entry
      from cache.entry_keys k
      where k.cache_id = c.id and k.view = v.id and k.key = decode(u.q->>0, 'hex') and k.scoped_state = decode(u.q->>1, 'hex')
        and k.scenario = u.q->>2 and k.revision <= at and (k.removed_revision is null or k.removed_revision > at) and not k.transient
        and not u.q->3 ? k.source
      group by 1, 2, 3, 4, 5
    ) g
    join cache.entries e on e.cache_id = c.id and e.id = g.entry;
  else
    return query
    select null::json, u.n::integer - 1, g.key, g.digest, g.is_error, true, true, g.support, g.entry, e.source, e.step, e.recorded_at, e.result::text
    from jsonb_array_elements(questions) with ordinality u(q, n)
    cross join lateral (
      select k.key, k.result_digest as digest, k.is_error, count(*) as support,
        (array_agg(k.entry order by k.revision, k.entry))[1] as entry
      from cache.entry_keys k
      where k.cache_id = c.id and k.view = v.id and k.key = decode(u.q->>0, 'hex')
        and k.revision <= at and (k.removed_revision is null or k.removed_revision > at) and not k.transient and not u.q->3 ? k.source
      group by 1, 2, 3
    ) g
    join cache.entries e on e.cache_id = c.id and e.id = g.entry;
  end if;
end
$$;
revoke execute on function cache.look(text, text, text, bigint, boolean, jsonb) from public;
grant execute on function cache.look(text, text, text, bigint, boolean, jsonb) to cacherl_app;
