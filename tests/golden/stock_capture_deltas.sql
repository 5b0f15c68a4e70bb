-- Parameters:
--   $1: node
--   $2: ops
--   $3: hlcs
--   $4: inserted
--   $5: mask:0
--   $6: key:2
--   $7: key:1
--   $8: value:3
--   $9: bit:3
--   $10: late:3
--   $11: value:4
--   $12: bit:4
--   $13: value:5
--   $14: bit:5
--   $15: value:7
--   $16: bit:7
--   $17: first
--   $18: last
WITH p AS (
    SELECT u.ord, u.op, u.hlc, u.ins, u.k2::character varying AS k_2, u.k1::bigint AS k_1, coalesce(u.m0 & $9::int8 <> 0, false) AS a_3, coalesce(u.l3, u.hlc) AS h_3, u.v3::text AS val_3, coalesce(u.m0 & $12::int8 <> 0, false) AS a_4, coalesce(u.v4::numeric, 0) AS d_4, coalesce(u.m0 & $14::int8 <> 0, false) AS a_5, coalesce(u.v5::numeric, 0) AS d_5, coalesce(u.m0 & $16::int8 <> 0, false) AS a_7, coalesce(u.v7::numeric, 0) AS d_7
    FROM unnest($2::text::"char"[], $3::text::int8[], $4::text::int8[], $5::text::int8[], $6::text::text[], $7::text::text[], $8::text::text[], $10::text::int8[], $11::text::text[], $13::text::text[], $15::text::text[]) WITH ORDINALITY AS u(op, hlc, ins, m0, k2, k1, v3, l3, v4, v5, v7, ord)
    WHERE u.ord BETWEEN $17::int8 AND $18::int8
)
INSERT INTO crdt_state.counter_2 AS c (k_2, k_1, attnum, node, increased, decreased) SELECT p.k_2, p.k_1, v.attnum, $1::int8::int2, greatest(v.delta, 0), greatest(-v.delta, 0) FROM p, LATERAL (VALUES (4, CASE WHEN p.a_4 THEN p.d_4 ELSE 0 END, false), (5, greatest(CASE WHEN p.a_5 THEN p.d_5 ELSE 0 END, 0), false), (7, CASE WHEN p.a_7 THEN p.d_7 ELSE 0 END, p.a_7)) AS v(attnum, delta, written) WHERE (v.delta <> 0 OR v.written AND p.op = 'U') AND p.op <> 'T' ON CONFLICT (k_2, k_1, attnum, node) DO UPDATE SET increased = c.increased + excluded.increased, decreased = c.decreased + excluded.decreased
