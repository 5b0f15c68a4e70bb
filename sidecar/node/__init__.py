"""The running loops of a node: capture, ship, apply, heartbeat, upkeep; and the state they share."""
