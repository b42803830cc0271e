-- Operations: removed and erased entries, snapshots.
select 1;
