"""Calibration: how wrong the cache is, measured against itself (method §3.5). Pure but for `job`: recordings in, evidence out.

`replay` looks every recorded call up without the recordings of its own task; `pools` puts tools together that fail alike;
`learn_then_test` finds how loose each pool may match at a bounded risk; `fidelity` turns hits into a probability that never falls with
similarity; `curve` and `evidence` say it all; `job` reads the database in bounded memory.
"""
