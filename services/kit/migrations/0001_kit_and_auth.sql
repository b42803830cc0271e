-- Schema `kit`: idempotency keys and the tenancy helper that every schema uses. Schema `auth`: API keys and delegations.
-- The roles exist already (services.kit.roles); this runs as cacherl_owner and creates nothing that needs a superuser.

create schema if not exists auth;
grant usage on schema kit, auth to cacherl_app, cacherl_indexer;

create function kit.current_tenant() returns text
language sql stable parallel safe
return nullif(current_setting('cacherl.tenant', true), '');

comment on function kit.current_tenant is 'The tenant of this transaction; null (sees nothing) where none was set.';

-- Rows belong to a tenant: only a transaction that set the tenant sees or writes them, whoever it is, but for the owner's functions.
create function kit.enable_tenancy(target regclass) returns void
language plpgsql as $$
begin
  execute format('alter table %s enable row level security', target);
  execute format('alter table %s force row level security', target);
  execute format(
    'create policy tenancy on %s to cacherl_app, cacherl_indexer '
    'using (tenant = (select kit.current_tenant())) with check (tenant = (select kit.current_tenant()))',
    target);
  execute format('create policy ownership on %s to cacherl_owner using (true) with check (true)', target);
  execute format('grant select, insert, update, delete on %s to cacherl_app', target);
end
$$;

comment on function kit.enable_tenancy is
  'Forces row-level security by the column `tenant` and grants the app its rows. SECURITY DEFINER functions of cacherl_owner see all rows.';

create table kit.idempotency (
  tenant text not null,
  route text not null,
  key text not null,
  fingerprint bytea not null,
  status integer,
  body bytea,
  created_at timestamptz not null default now(),
  primary key (tenant, route, key)
);
create index idempotency_created_at on kit.idempotency (created_at);
select kit.enable_tenancy('kit.idempotency');

create table auth.api_keys (
  prefix text primary key,
  key_id text not null unique generated always as ('key_' || prefix) stored,
  tenant text not null check (tenant <> ''),
  scopes text[] not null,
  digest bytea not null check (length(digest) = 32),
  label text not null default '',
  created_at timestamptz not null default now(),
  expires_at timestamptz not null default 'infinity',
  revoked_at timestamptz not null default 'infinity'
);
comment on table auth.api_keys is 'Keys are HMAC-SHA256 under the pepper. No role but the owner reads this table.';

create table auth.delegations (
  digest bytea primary key check (length(digest) = 32),
  tenant text not null,
  scopes text[] not null,
  job_id text not null,
  key_id text not null references auth.api_keys (key_id) on delete cascade,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null
);
create index delegations_job on auth.delegations (tenant, job_id);
create index delegations_expiry on auth.delegations (expires_at);

create function auth.find_key(wanted text)
returns table (key_id text, tenant text, scopes text[], digest bytea, left_s double precision)
language sql stable security definer set search_path = pg_catalog
begin atomic
  select k.key_id, k.tenant, k.scopes, k.digest, extract(epoch from least(k.expires_at, k.revoked_at, now() + interval '1 day') - now())::double precision
  from auth.api_keys k
  where k.prefix = wanted and k.expires_at > now() and k.revoked_at > now();
end;

create function auth.find_delegation(wanted bytea)
returns table (key_id text, tenant text, scopes text[], job_id text, left_s double precision)
language sql stable security definer set search_path = pg_catalog
begin atomic
  select d.key_id, d.tenant, d.scopes, d.job_id,
    extract(epoch from least(d.expires_at, k.expires_at, k.revoked_at, now() + interval '1 day') - now())::double precision
  from auth.delegations d join auth.api_keys k on k.key_id = d.key_id
  where d.digest = wanted and d.expires_at > now() and k.expires_at > now() and k.revoked_at > now();
end;

-- Only for a live key of this tenant, and never more than the key may do.
create function auth.delegate(new_digest bytea, for_tenant text, for_scopes text[], for_job text, by_key text, lifetime interval)
returns boolean
language sql volatile security definer set search_path = pg_catalog
begin atomic
  with made as (
    insert into auth.delegations (digest, tenant, scopes, job_id, key_id, expires_at)
    select new_digest, k.tenant, for_scopes, for_job, k.key_id, now() + lifetime
    from auth.api_keys k
    where k.key_id = by_key and k.tenant = for_tenant and for_scopes <@ k.scopes and k.expires_at > now() and k.revoked_at > now()
    returning 1
  )
  select exists (select from made);
end;

create function auth.renew_delegation(wanted bytea, lifetime interval) returns boolean
language sql volatile security definer set search_path = pg_catalog
begin atomic
  with renewed as (
    update auth.delegations d set expires_at = greatest(d.expires_at, now() + lifetime)
    from auth.api_keys k
    where d.digest = wanted and k.key_id = d.key_id and d.expires_at > now() and k.expires_at > now() and k.revoked_at > now()
    returning 1
  )
  select exists (select from renewed);
end;

create function auth.end_delegations(of_tenant text, of_job text) returns bigint
language sql volatile security definer set search_path = pg_catalog
begin atomic
  with ended as (delete from auth.delegations where tenant = of_tenant and job_id = of_job returning 1)
  select count(*) from ended;
end;

-- Housekeeping: idempotency answers are kept for two days, ended delegations for one.
create function kit.expire() returns bigint
language sql volatile security definer set search_path = pg_catalog
begin atomic
  with answers as (delete from kit.idempotency where created_at < now() - interval '2 days' returning 1),
       ended as (delete from auth.delegations where expires_at < now() - interval '1 day' returning 1)
  select (select count(*) from answers) + (select count(*) from ended);
end;

revoke execute on all functions in schema auth from public;
revoke execute on function kit.expire() from public;
grant execute on all functions in schema auth to cacherl_app;
grant execute on function kit.expire() to cacherl_app;
