"""The algebra: one CRDT type per module, as small immutable states with a merge, and their laws in the docstring.

Production merges the same states with generated SQL (:mod:`sidecar.core.merge`); these modules say what that SQL must
compute, and stay free of any driver, table or wire form. The types do not know each other. Types with one form of state
share its module: :mod:`.siblings` (concurrent writes), :mod:`.dots` and :mod:`.stamps` (elements).
"""
