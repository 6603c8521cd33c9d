"""Pure: what batch to run and at what learning rate. No torch, no I/O, no clock."""
