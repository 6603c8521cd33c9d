"""The process that stands for a pod: torch elastic agent, rendezvous, report, metrics."""
