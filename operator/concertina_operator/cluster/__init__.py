"""The shell on Kubernetes: carries out the same plan as `concertina run`, on pods."""
