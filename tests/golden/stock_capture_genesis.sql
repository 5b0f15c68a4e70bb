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
--   $17: old:4
--   $18: old:5
--   $19: old:7
--   $20: first
--   $21: last
WITH g AS (
    SELECT u.ord, u.op, u.hlc, u.ins, u.k2::character varying AS k_2, u.k1::bigint AS k_1, coalesce(u.m0 & $9::int8 <> 0, false) AS a_3, coalesce(u.l3, u.hlc) AS h_3, u.v3::text AS val_3, coalesce(u.m0 & $12::int8 <> 0, false) AS a_4, coalesce(u.v4::numeric, 0) AS d_4, coalesce(u.m0 & $14::int8 <> 0, false) AS a_5, coalesce(u.v5::numeric, 0) AS d_5, coalesce(u.m0 & $16::int8 <> 0, false) AS a_7, coalesce(u.v7::numeric, 0) AS d_7, u.old_4, u.old_5, u.old_7
    FROM unnest($2::text::"char"[], $3::text::int8[], $4::text::int8[], $5::text::int8[], $6::text::text[], $7::text::text[], $8::text::text[], $10::text::int8[], $11::text::text[], $13::text::text[], $15::text::text[], $17::text::numeric[], $18::text::numeric[], $19::text::numeric[]) WITH ORDINALITY AS u(op, hlc, ins, m0, k2, k1, v3, l3, v4, v5, v7, old_4, old_5, old_7, ord)
    WHERE u.ord BETWEEN $20::int8 AND $21::int8
), held AS (
    SELECT g.k_2, g.k_1, v.attnum, $1::int8::int2 AS me,
      v.total - (SELECT coalesce(sum(c.increased - c.base_increased - c.decreased + c.base_decreased), 0) FROM crdt_state.counter_2 AS c WHERE c.k_2 = g.k_2 AND c.k_1 = g.k_1 AND c.attnum = v.attnum) AS genesis
    FROM g LEFT JOIN crdt_state.row_2 AS s ON s.k_2 = g.k_2 AND s.k_1 = g.k_1, LATERAL (VALUES (4::int2, g.old_4 + coalesce(s.x_4, 0) + CASE WHEN g.op = 'R' THEN CASE WHEN g.a_4 THEN g.d_4 ELSE 0 END ELSE 0 END), (5::int2, g.old_5 + coalesce(s.x_5, 0) + CASE WHEN g.op = 'R' THEN greatest(CASE WHEN g.a_5 THEN g.d_5 ELSE 0 END, 0) ELSE - least(CASE WHEN g.a_5 THEN g.d_5 ELSE 0 END, 0) END), (7::int2, g.old_7 + coalesce(s.x_7, 0) + CASE WHEN g.op = 'R' THEN CASE WHEN g.a_7 THEN g.d_7 ELSE 0 END ELSE 0 END)) AS v(attnum, total)
    WHERE g.op IN ('D', 'R') AND coalesce(s.row_node, 0) = 0 AND v.total IS NOT NULL
)
INSERT INTO crdt_state.counter_2 (k_2, k_1, attnum, node, increased, decreased)
SELECT k_2, k_1, attnum, 0, greatest(genesis, 0), greatest(-genesis, 0) FROM held WHERE genesis <> 0
ON CONFLICT DO NOTHING
