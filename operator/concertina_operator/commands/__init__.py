"""The commands of `concertina` that act on a cluster, by the current kubeconfig."""
