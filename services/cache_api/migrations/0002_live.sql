-- Live calls: leases of single flight, budgets, what shadow found.
select 1;
