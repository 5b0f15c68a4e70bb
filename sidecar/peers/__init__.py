"""The only place that talks to a network peer: listener, dialler and links between sidecars."""
