"""The trainer: measures gradient variance, asks for batches, re-shards FSDP state in place."""
