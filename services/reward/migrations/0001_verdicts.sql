-- Schema `reward`: verdicts of LLM judges, so that nothing is asked twice. A row holds hashes and a rating, no text of anybody.

create table reward.verdicts (
  tenant text not null default kit.current_tenant(),
  key bytea not null check (length(key) = 32),
  judge text not null,
  model text not null,
  rating smallint not null check (rating between 0 and 5),
  tokens integer not null check (tokens >= 0),
  created_at timestamptz not null default now(),
  primary key (tenant, key)
);
comment on table reward.verdicts is
  'Key: sha256 of judge, model, prompt version, question, reference, answer and number of the vote. An abstention is not kept: it is asked anew.';
select kit.enable_tenancy('reward.verdicts');
