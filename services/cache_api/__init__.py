"""The cache service: recorded tool calls in, answers with provenance out. It never invents a result and never overwrites one."""
