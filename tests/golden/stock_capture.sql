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
--   $17: xids
--   $18: images
--   $19: old:4
--   $20: old:5
--   $21: old:7
--   $22: first
--   $23: last
WITH g AS (
    SELECT u.ord, u.op, u.hlc, u.ins, u.k2::character varying AS k_2, u.k1::bigint AS k_1, coalesce(u.m0 & $9::int8 <> 0, false) AS a_3, coalesce(u.l3, u.hlc) AS h_3, u.v3::text AS val_3, coalesce(u.m0 & $12::int8 <> 0, false) AS a_4, coalesce(u.v4::numeric, 0) AS d_4, coalesce(u.m0 & $14::int8 <> 0, false) AS a_5, coalesce(u.v5::numeric, 0) AS d_5, coalesce(u.m0 & $16::int8 <> 0, false) AS a_7, coalesce(u.v7::numeric, 0) AS d_7, u.xids, u.images, u.old_4, u.old_5, u.old_7
    FROM unnest($2::text::"char"[], $3::text::int8[], $4::text::int8[], $5::text::int8[], $6::text::text[], $7::text::text[], $8::text::text[], $10::text::int8[], $11::text::text[], $13::text::text[], $15::text::text[], $17::text::xid[], $18::text::jsonb[], $19::text::numeric[], $20::text::numeric[], $21::text::numeric[]) WITH ORDINALITY AS u(op, hlc, ins, m0, k2, k1, v3, l3, v4, v5, v7, xids, images, old_4, old_5, old_7, ord)
    WHERE u.ord BETWEEN $22::int8 AND $23::int8
), up AS (
    INSERT INTO crdt_state.row_2 AS s (k_2, k_1, row_node, row_hlc, live_node, live_hlc, dead_node, dead_hlc, row_xmin, image, n_3, h_3, x_4, x_5, x_7)
    SELECT g.k_2, g.k_1, CASE WHEN g.op IN ('I', 'R') THEN $1::int8::int2 ELSE 0 END::int2, CASE WHEN g.op IN ('I', 'R') THEN g.ins ELSE 0 END, CASE WHEN g.op IN ('I', 'R', 'U') THEN $1::int8::int2 ELSE 0 END::int2, CASE WHEN g.op IN ('I', 'R', 'U') THEN g.hlc ELSE 0 END, CASE WHEN g.op = 'D' THEN $1::int8::int2 END, CASE WHEN g.op = 'D' THEN g.hlc END, CASE WHEN g.op <> 'D' THEN g.xids END, g.images, CASE WHEN g.a_3 AND (g.op NOT IN ('I', 'R') OR g.h_3 <> g.ins) THEN $1::int8::int2 END, CASE WHEN g.a_3 AND (g.op NOT IN ('I', 'R') OR g.h_3 <> g.ins) THEN g.h_3 END, nullif(CASE g.op WHEN 'D' THEN coalesce(g.old_4, 0) WHEN 'I' THEN - (SELECT coalesce(sum(greatest(c.seen_increased - c.base_increased, 0) - greatest(c.seen_decreased - c.base_decreased, 0)), 0) FROM crdt_state.counter_2 AS c WHERE c.k_2 = g.k_2 AND c.k_1 = g.k_1 AND c.attnum = 4 AND (c.node <> 0 OR NOT EXISTS (SELECT FROM crdt_state.truncation AS e WHERE e.table_id = 2))) WHEN 'R' THEN - (SELECT coalesce(sum(r.x_4), 0) FROM crdt_state.row_2 AS r WHERE r.k_2 = g.k_2 AND r.k_1 = g.k_1) ELSE 0 END + 0, 0), nullif(CASE g.op WHEN 'D' THEN coalesce(g.old_5, 0) WHEN 'I' THEN - (SELECT coalesce(sum(greatest(c.seen_increased - c.base_increased, 0) - greatest(c.seen_decreased - c.base_decreased, 0)), 0) FROM crdt_state.counter_2 AS c WHERE c.k_2 = g.k_2 AND c.k_1 = g.k_1 AND c.attnum = 5 AND (c.node <> 0 OR NOT EXISTS (SELECT FROM crdt_state.truncation AS e WHERE e.table_id = 2))) WHEN 'R' THEN - (SELECT coalesce(sum(r.x_5), 0) FROM crdt_state.row_2 AS r WHERE r.k_2 = g.k_2 AND r.k_1 = g.k_1) ELSE 0 END + - least(CASE WHEN g.a_5 THEN g.d_5 ELSE 0 END, 0), 0), nullif(CASE g.op WHEN 'D' THEN coalesce(g.old_7, 0) WHEN 'I' THEN - (SELECT coalesce(sum(greatest(c.seen_increased - c.base_increased, 0) - greatest(c.seen_decreased - c.base_decreased, 0)), 0) FROM crdt_state.counter_2 AS c WHERE c.k_2 = g.k_2 AND c.k_1 = g.k_1 AND c.attnum = 7 AND (c.node <> 0 OR NOT EXISTS (SELECT FROM crdt_state.truncation AS e WHERE e.table_id = 2))) WHEN 'R' THEN - (SELECT coalesce(sum(r.x_7), 0) FROM crdt_state.row_2 AS r WHERE r.k_2 = g.k_2 AND r.k_1 = g.k_1) ELSE 0 END + 0, 0)
    FROM g ORDER BY g.k_2, g.k_1
    ON CONFLICT (k_2, k_1) DO UPDATE SET
      row_node = CASE WHEN (excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) THEN excluded.row_node ELSE s.row_node END,
      row_hlc = CASE WHEN (excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) THEN excluded.row_hlc ELSE s.row_hlc END,
      live_node = CASE WHEN excluded.live_hlc > 0 THEN excluded.live_node ELSE s.live_node END,
      live_hlc = CASE WHEN excluded.live_hlc > 0 THEN excluded.live_hlc ELSE s.live_hlc END,
      dead_node = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) AND excluded.dead_hlc IS NULL AND s.dead_hlc = excluded.live_hlc) THEN NULL WHEN (s.dead_hlc, s.dead_node) > (excluded.dead_hlc, excluded.dead_node) THEN s.dead_node ELSE coalesce(excluded.dead_node, s.dead_node) END,
      dead_hlc = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) AND excluded.dead_hlc IS NULL AND s.dead_hlc = excluded.live_hlc) THEN NULL WHEN (s.dead_hlc, s.dead_node) > (excluded.dead_hlc, excluded.dead_node) THEN s.dead_hlc ELSE coalesce(excluded.dead_hlc, s.dead_hlc) END,
      row_xmin = excluded.row_xmin,
      image = excluded.image,
      n_3 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_3 IS NOT NULL) THEN excluded.n_3 ELSE s.n_3 END,
      h_3 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_3 IS NOT NULL) THEN excluded.h_3 ELSE s.h_3 END,
      v_3 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_3 IS NOT NULL) AND coalesce(s.n_3, s.row_node) <> $1::int8::int2 AND coalesce(s.h_3, s.row_hlc) > 0 THEN crdt_state.vector_add(s.v_3, coalesce(s.n_3, s.row_node), coalesce(s.h_3, s.row_hlc), $1::int8::int2) ELSE s.v_3 END,
      x_4 = nullif(coalesce(s.x_4, 0) + coalesce(excluded.x_4, 0), 0),
      x_5 = nullif(coalesce(s.x_5, 0) + coalesce(excluded.x_5, 0), 0),
      x_7 = nullif(coalesce(s.x_7, 0) + coalesce(excluded.x_7, 0), 0)
    RETURNING s.k_2, s.k_1, s.row_xmin, s.row_node, s.live_hlc, s.live_node, s.dead_hlc, s.dead_node, s.alive, s.x_4, s.x_5, s.x_7
)
INSERT INTO crdt_state.rewrite (table_id, row_key)
SELECT 2, ARRAY[up.k_2::text, up.k_1::text] FROM up WHERE up.row_xmin IS NOT NULL AND (up.x_4 <> 0 OR up.x_5 <> 0 OR up.x_7 <> 0 OR EXISTS (SELECT FROM "Shop's"."the ""stock""" AS t WHERE t."region" = up.k_2 AND t."id" = up.k_1 AND (((t."price" IS NULL OR t."price" IN ('NaN', 'Infinity', '-Infinity') OR scale(t."price") > min_scale(t."price")) AND (up.row_node <> 0 OR EXISTS (SELECT FROM crdt_state.counter_2 AS c WHERE c.k_2 = up.k_2 AND c.k_1 = up.k_1 AND c.attnum = 7 AND c.node <> 0) OR EXISTS (SELECT FROM crdt_state.truncation AS e WHERE e.table_id = 2)))))) OR NOT (up.dead_hlc IS NULL OR (up.live_hlc, up.live_node) > (up.dead_hlc, up.dead_node)) AND EXISTS (SELECT FROM "Shop's"."the ""stock""" AS t WHERE t."region" = up.k_2 AND t."id" = up.k_1) RETURNING id, row_key
