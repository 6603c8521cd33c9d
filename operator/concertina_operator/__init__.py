"""The operator: decides how many pods a job has. Pure core, thin shells."""
