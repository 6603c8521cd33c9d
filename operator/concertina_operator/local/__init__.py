"""The local shell: `concertina run` carries out the same plan as in Kubernetes, on processes."""
