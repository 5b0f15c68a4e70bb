-- Parameters:
--   $1: ops
--   $2: hlcs
--   $3: inserted
--   $4: mask:0
--   $5: key:2
--   $6: key:1
--   $7: value:3
--   $8: bit:3
--   $9: late:3
--   $10: value:4
--   $11: bit:4
--   $12: value:5
--   $13: bit:5
--   $14: value:7
--   $15: bit:7
--   $16: seen:4
--   $17: seen:5
--   $18: seen:7
--   $19: first
--   $20: last
WITH p AS (
    SELECT u.ord, u.op, u.hlc, u.ins, u.k2::character varying AS k_2, u.k1::bigint AS k_1, coalesce(u.m0 & $8::int8 <> 0, false) AS a_3, coalesce(u.l3, u.hlc) AS h_3, u.v3::text AS val_3, coalesce(u.m0 & $11::int8 <> 0, false) AS a_4, coalesce(u.v4::numeric, 0) AS d_4, coalesce(u.m0 & $13::int8 <> 0, false) AS a_5, coalesce(u.v5::numeric, 0) AS d_5, coalesce(u.m0 & $15::int8 <> 0, false) AS a_7, coalesce(u.v7::numeric, 0) AS d_7, u.seen_4, u.seen_5, u.seen_7
    FROM unnest($1::text::"char"[], $2::text::int8[], $3::text::int8[], $4::text::int8[], $5::text::text[], $6::text::text[], $7::text::text[], $9::text::int8[], $10::text::text[], $12::text::text[], $14::text::text[], $16::text::text[], $17::text::text[], $18::text::text[]) WITH ORDINALITY AS u(op, hlc, ins, m0, k2, k1, v3, l3, v4, v5, v7, seen_4, seen_5, seen_7, ord)
    WHERE u.ord BETWEEN $19::int8 AND $20::int8
)
INSERT INTO crdt_state.counter_2 AS c (k_2, k_1, attnum, node, increased, decreased, seen_increased, seen_decreased, base_increased, base_decreased) SELECT p.k_2, p.k_1, v.attnum, e.key::int2, CASE WHEN e.key = '0' THEN (e.value ->> 0)::numeric ELSE 0 END, CASE WHEN e.key = '0' THEN (e.value ->> 1)::numeric ELSE 0 END, (e.value ->> 0)::numeric, (e.value ->> 1)::numeric, CASE WHEN p.op = 'D' THEN 0 ELSE (e.value ->> 0)::numeric END, CASE WHEN p.op = 'D' THEN 0 ELSE (e.value ->> 1)::numeric END FROM p, LATERAL (VALUES (4, p.seen_4), (5, p.seen_5), (7, p.seen_7)) AS v(attnum, seen), LATERAL jsonb_each(v.seen::jsonb) AS e WHERE p.op IN ('D', 'I', 'R') ON CONFLICT (k_2, k_1, attnum, node) DO UPDATE SET seen_increased = greatest(c.seen_increased, excluded.seen_increased), seen_decreased = greatest(c.seen_decreased, excluded.seen_decreased), base_increased = greatest(c.base_increased, excluded.base_increased), base_decreased = greatest(c.base_decreased, excluded.base_decreased)
