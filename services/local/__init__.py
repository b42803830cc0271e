"""The embedded default: the whole system on this machine, started and ended as one."""
