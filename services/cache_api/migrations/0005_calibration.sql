-- Calibration: pools and their evidence.
select 1;
