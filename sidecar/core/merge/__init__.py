"""TableSpec -> SQL. The only source of generated SQL; pure text in, pure text out.

One statement per table and batch does a whole merge (:mod:`.apply`) or a whole capture (:mod:`.capture`); type families
contribute fragments (:mod:`.registers`, :mod:`.counters`), :mod:`.rows` the life cycle of rows.
"""
