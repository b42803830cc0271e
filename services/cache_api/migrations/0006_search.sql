-- Search: indexes that are measured.
select 1;
