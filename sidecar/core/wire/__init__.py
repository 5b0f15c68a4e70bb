"""The peer protocol without any I/O: frames, messages, bodies and the state machine of one link (docs/protocol.md)."""
