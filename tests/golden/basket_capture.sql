-- Parameters:
--   $1: node
--   $2: ops
--   $3: hlcs
--   $4: inserted
--   $5: mask:0
--   $6: key:1
--   $7: value:2
--   $8: bit:2
--   $9: late:2
--   $10: value:3
--   $11: bit:3
--   $12: late:3
--   $13: value:4
--   $14: bit:4
--   $15: late:4
--   $16: value:5
--   $17: bit:5
--   $18: late:5
--   $19: value:6
--   $20: bit:6
--   $21: late:6
--   $22: value:7
--   $23: bit:7
--   $24: late:7
--   $25: value:8
--   $26: bit:8
--   $27: late:8
--   $28: value:9
--   $29: bit:9
--   $30: late:9
--   $31: value:10
--   $32: bit:10
--   $33: late:10
--   $34: value:11
--   $35: bit:11
--   $36: xids
--   $37: images
--   $38: old:11
--   $39: old:6
--   $40: old:7
--   $41: old:8
--   $42: old:9
--   $43: old:10
--   $44: first
--   $45: last
WITH g AS (
    SELECT u.ord, u.op, u.hlc, u.ins, u.k1::bigint AS k_1, coalesce(u.m0 & $8::int8 <> 0, false) AS a_2, coalesce(u.l2, u.hlc) AS h_2, u.v2::text AS val_2, coalesce(u.m0 & $11::int8 <> 0, false) AS a_3, coalesce(u.l3, u.hlc) AS h_3, u.v3::character varying AS val_3, coalesce(u.m0 & $14::int8 <> 0, false) AS a_4, coalesce(u.l4, u.hlc) AS h_4, u.v4::integer AS val_4, coalesce(u.m0 & $17::int8 <> 0, false) AS a_5, coalesce(u.l5, u.hlc) AS h_5, u.v5::jsonb AS val_5, coalesce(u.m0 & $20::int8 <> 0, false) AS a_6, coalesce(u.l6, u.hlc) AS h_6, u.v6::jsonb AS c_6, coalesce(u.m0 & $23::int8 <> 0, false) AS a_7, coalesce(u.l7, u.hlc) AS h_7, u.v7::jsonb AS c_7, coalesce(u.m0 & $26::int8 <> 0, false) AS a_8, coalesce(u.l8, u.hlc) AS h_8, u.v8::jsonb AS c_8, coalesce(u.m0 & $29::int8 <> 0, false) AS a_9, coalesce(u.l9, u.hlc) AS h_9, u.v9::jsonb AS c_9, coalesce(u.m0 & $32::int8 <> 0, false) AS a_10, coalesce(u.l10, u.hlc) AS h_10, u.v10::jsonb AS c_10, coalesce(u.m0 & $35::int8 <> 0, false) AS a_11, coalesce(u.v11::numeric, 0) AS d_11, u.xids, u.images, u.old_11, u.old_6, u.old_7, u.old_8, u.old_9, u.old_10
    FROM unnest($2::text::"char"[], $3::text::int8[], $4::text::int8[], $5::text::int8[], $6::text::text[], $7::text::text[], $9::text::int8[], $10::text::text[], $12::text::int8[], $13::text::text[], $15::text::int8[], $16::text::text[], $18::text::int8[], $19::text::text[], $21::text::int8[], $22::text::text[], $24::text::int8[], $25::text::text[], $27::text::int8[], $28::text::text[], $30::text::int8[], $31::text::text[], $33::text::int8[], $34::text::text[], $36::text::xid[], $37::text::jsonb[], $38::text::numeric[], $39::text::text[], $40::text::text[], $41::text::text[], $42::text::text[], $43::text::text[]) WITH ORDINALITY AS u(op, hlc, ins, m0, k1, v2, l2, v3, l3, v4, l4, v5, l5, v6, l6, v7, l7, v8, l8, v9, l9, v10, l10, v11, xids, images, old_11, old_6, old_7, old_8, old_9, old_10, ord)
    WHERE u.ord BETWEEN $44::int8 AND $45::int8
), up AS (
    INSERT INTO crdt_state.row_3 AS s (k_1, row_node, row_hlc, live_node, live_hlc, dead_node, dead_hlc, row_xmin, image, n_2, h_2, n_3, h_3, n_4, h_4, n_5, h_5, n_6, h_6, n_7, h_7, n_8, h_8, n_9, h_9, n_10, h_10, x_11, e_6, z_6, e_7, z_7, e_8, z_8, e_9, z_9, e_10, z_10)
    SELECT g.k_1, CASE WHEN g.op IN ('I', 'R') THEN $1::int8::int2 ELSE 0 END::int2, CASE WHEN g.op IN ('I', 'R') THEN g.ins ELSE 0 END, CASE WHEN g.op IN ('I', 'R', 'U') THEN $1::int8::int2 ELSE 0 END::int2, CASE WHEN g.op IN ('I', 'R', 'U') THEN g.hlc ELSE 0 END, CASE WHEN g.op = 'D' THEN $1::int8::int2 END, CASE WHEN g.op = 'D' THEN g.hlc END, CASE WHEN g.op <> 'D' THEN g.xids END, g.images, CASE WHEN g.a_2 AND (g.op NOT IN ('I', 'R') OR g.h_2 <> g.ins) THEN $1::int8::int2 END, CASE WHEN g.a_2 AND (g.op NOT IN ('I', 'R') OR g.h_2 <> g.ins) THEN g.h_2 END, CASE WHEN g.a_3 AND (g.op NOT IN ('I', 'R') OR g.h_3 <> g.ins) THEN $1::int8::int2 END, CASE WHEN g.a_3 AND (g.op NOT IN ('I', 'R') OR g.h_3 <> g.ins) THEN g.h_3 END, CASE WHEN g.a_4 AND (g.op NOT IN ('I', 'R') OR g.h_4 <> g.ins) THEN $1::int8::int2 END, CASE WHEN g.a_4 AND (g.op NOT IN ('I', 'R') OR g.h_4 <> g.ins) THEN g.h_4 END, CASE WHEN g.a_5 AND (g.op NOT IN ('I', 'R') OR g.h_5 <> g.ins) THEN $1::int8::int2 END, CASE WHEN g.a_5 AND (g.op NOT IN ('I', 'R') OR g.h_5 <> g.ins) THEN g.h_5 END, CASE WHEN g.a_6 AND (g.op NOT IN ('I', 'R') OR g.h_6 <> g.ins) THEN $1::int8::int2 END, CASE WHEN g.a_6 AND (g.op NOT IN ('I', 'R') OR g.h_6 <> g.ins) THEN g.h_6 END, CASE WHEN g.a_7 AND (g.op NOT IN ('I', 'R') OR g.h_7 <> g.ins) THEN $1::int8::int2 END, CASE WHEN g.a_7 AND (g.op NOT IN ('I', 'R') OR g.h_7 <> g.ins) THEN g.h_7 END, CASE WHEN g.a_8 AND (g.op NOT IN ('I', 'R') OR g.h_8 <> g.ins) THEN $1::int8::int2 END, CASE WHEN g.a_8 AND (g.op NOT IN ('I', 'R') OR g.h_8 <> g.ins) THEN g.h_8 END, CASE WHEN g.a_9 AND (g.op NOT IN ('I', 'R') OR g.h_9 <> g.ins) THEN $1::int8::int2 END, CASE WHEN g.a_9 AND (g.op NOT IN ('I', 'R') OR g.h_9 <> g.ins) THEN g.h_9 END, CASE WHEN g.a_10 AND (g.op NOT IN ('I', 'R') OR g.h_10 <> g.ins) THEN $1::int8::int2 END, CASE WHEN g.a_10 AND (g.op NOT IN ('I', 'R') OR g.h_10 <> g.ins) THEN g.h_10 END, nullif(CASE g.op WHEN 'D' THEN coalesce(g.old_11, 0) WHEN 'I' THEN - (SELECT coalesce(sum(greatest(c.seen_increased - c.base_increased, 0) - greatest(c.seen_decreased - c.base_decreased, 0)), 0) FROM crdt_state.counter_3 AS c WHERE c.k_1 = g.k_1 AND c.attnum = 11 AND (c.node <> 0 OR NOT EXISTS (SELECT FROM crdt_state.truncation AS e WHERE e.table_id = 3))) WHEN 'R' THEN - (SELECT coalesce(sum(r.x_11), 0) FROM crdt_state.row_3 AS r WHERE r.k_1 = g.k_1) ELSE 0 END + 0, 0), CASE WHEN g.a_6 THEN crdt_state.dots_merge(coalesce(r.e_6, crdt_state.genesis_dots(coalesce(r.image ->> 'seen', g.old_6)::text[])), g.c_6, $1::int8, NULL::int8[]) ELSE r.e_6 END, CASE WHEN g.a_6 THEN coalesce((g.c_6 -> 'null')::boolean, false) ELSE r.z_6 END, CASE WHEN g.a_7 THEN crdt_state.dots_merge(coalesce(r.e_7, crdt_state.genesis_dots(coalesce(r.image ->> 'tags', g.old_7)::text[])), g.c_7, $1::int8, NULL::int8[]) ELSE r.e_7 END, CASE WHEN g.a_7 THEN coalesce((g.c_7 -> 'null')::boolean, false) ELSE r.z_7 END, CASE WHEN g.a_8 THEN crdt_state.dots_merge(coalesce(r.e_8, crdt_state.genesis_dots(coalesce(r.image ->> 'sizes', g.old_8)::text[])), g.c_8, $1::int8, NULL::int8[]) ELSE r.e_8 END, CASE WHEN g.a_8 THEN coalesce((g.c_8 -> 'null')::boolean, false) ELSE r.z_8 END, CASE WHEN g.a_9 THEN crdt_state.stamps_merge(coalesce(r.e_9, crdt_state.genesis_stamps(crdt_state.json_elements(coalesce(r.image ->> 'notes', g.old_9)::jsonb))), g.c_9, $1::int8, false) ELSE r.e_9 END, CASE WHEN g.a_9 THEN coalesce((g.c_9 -> 'null')::boolean, false) ELSE r.z_9 END, CASE WHEN g.a_10 THEN crdt_state.stamps_merge(coalesce(r.e_10, crdt_state.genesis_map(coalesce(r.image ->> 'the prefs', g.old_10)::jsonb)), g.c_10, $1::int8, true) ELSE r.e_10 END, CASE WHEN g.a_10 THEN coalesce((g.c_10 -> 'null')::boolean, false) ELSE r.z_10 END
    FROM g LEFT JOIN LATERAL (SELECT r.image AS image, r.e_6, r.z_6, r.e_7, r.z_7, r.e_8, r.z_8, r.e_9, r.z_9, r.e_10, r.z_10 FROM crdt_state.row_3 AS r WHERE r.k_1 = g.k_1 LIMIT 1) AS r ON true ORDER BY g.k_1
    ON CONFLICT (k_1) DO UPDATE SET
      row_node = CASE WHEN (excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) THEN excluded.row_node ELSE s.row_node END,
      row_hlc = CASE WHEN (excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) THEN excluded.row_hlc ELSE s.row_hlc END,
      live_node = CASE WHEN excluded.live_hlc > 0 THEN excluded.live_node ELSE s.live_node END,
      live_hlc = CASE WHEN excluded.live_hlc > 0 THEN excluded.live_hlc ELSE s.live_hlc END,
      dead_node = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) AND excluded.dead_hlc IS NULL AND s.dead_hlc = excluded.live_hlc) THEN NULL WHEN (s.dead_hlc, s.dead_node) > (excluded.dead_hlc, excluded.dead_node) THEN s.dead_node ELSE coalesce(excluded.dead_node, s.dead_node) END,
      dead_hlc = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) AND excluded.dead_hlc IS NULL AND s.dead_hlc = excluded.live_hlc) THEN NULL WHEN (s.dead_hlc, s.dead_node) > (excluded.dead_hlc, excluded.dead_node) THEN s.dead_hlc ELSE coalesce(excluded.dead_hlc, s.dead_hlc) END,
      row_xmin = excluded.row_xmin,
      image = excluded.image,
      n_2 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_2 IS NOT NULL) THEN excluded.n_2 ELSE s.n_2 END,
      h_2 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_2 IS NOT NULL) THEN excluded.h_2 ELSE s.h_2 END,
      v_2 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_2 IS NOT NULL) AND coalesce(s.n_2, s.row_node) <> $1::int8::int2 AND coalesce(s.h_2, s.row_hlc) > 0 THEN crdt_state.vector_add(s.v_2, coalesce(s.n_2, s.row_node), coalesce(s.h_2, s.row_hlc), $1::int8::int2) ELSE s.v_2 END,
      sib_2 = CASE WHEN NOT ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_2 IS NOT NULL) THEN s.sib_2 END,
      n_3 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_3 IS NOT NULL) THEN excluded.n_3 ELSE s.n_3 END,
      h_3 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_3 IS NOT NULL) THEN excluded.h_3 ELSE s.h_3 END,
      v_3 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_3 IS NOT NULL) AND coalesce(s.n_3, s.row_node) <> $1::int8::int2 AND coalesce(s.h_3, s.row_hlc) > 0 THEN crdt_state.vector_add(s.v_3, coalesce(s.n_3, s.row_node), coalesce(s.h_3, s.row_hlc), $1::int8::int2) ELSE s.v_3 END,
      sib_3 = CASE WHEN NOT ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_3 IS NOT NULL) THEN s.sib_3 END,
      n_4 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_4 IS NOT NULL) THEN excluded.n_4 ELSE s.n_4 END,
      h_4 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_4 IS NOT NULL) THEN excluded.h_4 ELSE s.h_4 END,
      v_4 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_4 IS NOT NULL) AND coalesce(s.n_4, s.row_node) <> $1::int8::int2 AND coalesce(s.h_4, s.row_hlc) > 0 THEN crdt_state.vector_add(s.v_4, coalesce(s.n_4, s.row_node), coalesce(s.h_4, s.row_hlc), $1::int8::int2) ELSE s.v_4 END,
      sib_4 = CASE WHEN NOT ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_4 IS NOT NULL) THEN s.sib_4 END,
      n_5 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_5 IS NOT NULL) THEN excluded.n_5 ELSE s.n_5 END,
      h_5 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_5 IS NOT NULL) THEN excluded.h_5 ELSE s.h_5 END,
      v_5 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_5 IS NOT NULL) AND coalesce(s.n_5, s.row_node) <> $1::int8::int2 AND coalesce(s.h_5, s.row_hlc) > 0 THEN crdt_state.vector_add(s.v_5, coalesce(s.n_5, s.row_node), coalesce(s.h_5, s.row_hlc), $1::int8::int2) ELSE s.v_5 END,
      sib_5 = CASE WHEN NOT ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_5 IS NOT NULL) THEN s.sib_5 END,
      n_6 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_6 IS NOT NULL) THEN excluded.n_6 ELSE s.n_6 END,
      h_6 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_6 IS NOT NULL) THEN excluded.h_6 ELSE s.h_6 END,
      v_6 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_6 IS NOT NULL) AND coalesce(s.n_6, s.row_node) <> $1::int8::int2 AND coalesce(s.h_6, s.row_hlc) > 0 THEN crdt_state.vector_add(s.v_6, coalesce(s.n_6, s.row_node), coalesce(s.h_6, s.row_hlc), $1::int8::int2) ELSE s.v_6 END,
      n_7 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_7 IS NOT NULL) THEN excluded.n_7 ELSE s.n_7 END,
      h_7 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_7 IS NOT NULL) THEN excluded.h_7 ELSE s.h_7 END,
      v_7 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_7 IS NOT NULL) AND coalesce(s.n_7, s.row_node) <> $1::int8::int2 AND coalesce(s.h_7, s.row_hlc) > 0 THEN crdt_state.vector_add(s.v_7, coalesce(s.n_7, s.row_node), coalesce(s.h_7, s.row_hlc), $1::int8::int2) ELSE s.v_7 END,
      n_8 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_8 IS NOT NULL) THEN excluded.n_8 ELSE s.n_8 END,
      h_8 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_8 IS NOT NULL) THEN excluded.h_8 ELSE s.h_8 END,
      v_8 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_8 IS NOT NULL) AND coalesce(s.n_8, s.row_node) <> $1::int8::int2 AND coalesce(s.h_8, s.row_hlc) > 0 THEN crdt_state.vector_add(s.v_8, coalesce(s.n_8, s.row_node), coalesce(s.h_8, s.row_hlc), $1::int8::int2) ELSE s.v_8 END,
      n_9 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_9 IS NOT NULL) THEN excluded.n_9 ELSE s.n_9 END,
      h_9 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_9 IS NOT NULL) THEN excluded.h_9 ELSE s.h_9 END,
      v_9 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_9 IS NOT NULL) AND coalesce(s.n_9, s.row_node) <> $1::int8::int2 AND coalesce(s.h_9, s.row_hlc) > 0 THEN crdt_state.vector_add(s.v_9, coalesce(s.n_9, s.row_node), coalesce(s.h_9, s.row_hlc), $1::int8::int2) ELSE s.v_9 END,
      n_10 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_10 IS NOT NULL) THEN excluded.n_10 ELSE s.n_10 END,
      h_10 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_10 IS NOT NULL) THEN excluded.h_10 ELSE s.h_10 END,
      v_10 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_10 IS NOT NULL) AND coalesce(s.n_10, s.row_node) <> $1::int8::int2 AND coalesce(s.h_10, s.row_hlc) > 0 THEN crdt_state.vector_add(s.v_10, coalesce(s.n_10, s.row_node), coalesce(s.h_10, s.row_hlc), $1::int8::int2) ELSE s.v_10 END,
      x_11 = nullif(coalesce(s.x_11, 0) + coalesce(excluded.x_11, 0), 0),
      e_6 = excluded.e_6,
      z_6 = excluded.z_6,
      e_7 = excluded.e_7,
      z_7 = excluded.z_7,
      e_8 = excluded.e_8,
      z_8 = excluded.z_8,
      e_9 = excluded.e_9,
      z_9 = excluded.z_9,
      e_10 = excluded.e_10,
      z_10 = excluded.z_10
    RETURNING s.k_1, s.row_xmin, s.row_node, s.live_hlc, s.live_node, s.dead_hlc, s.dead_node, s.alive, s.x_11, s.e_6, s.z_6, s.e_7, s.z_7, s.e_8, s.z_8, s.e_9, s.z_9, s.e_10, s.z_10
)
INSERT INTO crdt_state.rewrite (table_id, row_key)
SELECT 3, ARRAY[up.k_1::text] FROM up WHERE up.row_xmin IS NOT NULL AND (up.x_11 <> 0 OR EXISTS (SELECT FROM "shop"."basket" AS t WHERE t."id" = up.k_1 AND (up.e_6 IS NOT NULL AND t."seen"::text IS DISTINCT FROM (coalesce(nullif(crdt_state.dots_elements(up.e_6, false), '{}')::text, CASE WHEN up.z_6 IS NOT TRUE THEN '{}' END)::uuid[])::text OR up.e_7 IS NOT NULL AND t."tags"::text IS DISTINCT FROM (coalesce(nullif(crdt_state.dots_elements(up.e_7, false), '{}')::text, CASE WHEN up.z_7 IS NOT TRUE THEN '{}' END)::text[])::text OR up.e_8 IS NOT NULL AND t."sizes"::text IS DISTINCT FROM (coalesce(nullif(crdt_state.dots_elements(up.e_8, true), '{}')::text, CASE WHEN up.z_8 IS NOT TRUE THEN '{}' END)::integer[])::text OR up.e_9 IS NOT NULL AND t."notes"::text IS DISTINCT FROM (coalesce(crdt_state.json_array(nullif(crdt_state.stamps_elements(up.e_9, true), '{}')), CASE WHEN up.z_9 IS NOT TRUE THEN '[]'::jsonb END)::jsonb)::text OR up.e_10 IS NOT NULL AND t."the prefs"::text IS DISTINCT FROM (coalesce(nullif(crdt_state.map_value(up.e_10), '{}'), CASE WHEN up.z_10 IS NOT TRUE THEN '{}'::jsonb END)::jsonb)::text))) OR NOT (up.dead_hlc IS NULL OR (up.live_hlc, up.live_node) > (up.dead_hlc, up.dead_node)) AND EXISTS (SELECT FROM "shop"."basket" AS t WHERE t."id" = up.k_1) RETURNING id, row_key
