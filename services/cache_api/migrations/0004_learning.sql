-- What a view learnt: scopes, resource groups, canonicalisers.
select 1;
