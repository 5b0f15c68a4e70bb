"""The lab: embedded PostgreSQL, clusters of nodes on one machine, links that can be slowed and cut.

Library code for the demo, the tests and the benchmarks; a production sidecar imports nothing from here.
"""
