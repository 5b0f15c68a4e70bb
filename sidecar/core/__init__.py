"""Pure core: no await, no clock, no randomness, no logging, no driver."""
