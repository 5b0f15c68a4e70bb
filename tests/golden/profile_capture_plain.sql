-- Parameters:
--   $1: node
--   $2: hlcs
--   $3: key:1
--   $4: value:2
--   $5: value:3
--   $6: xids
--   $7: images
--   $8: first
--   $9: last
WITH g AS (
    SELECT u.ord, 'I'::"char" AS op, u.hlc, u.hlc AS ins, u.k1::uuid AS k_1, true AS a_2, u.hlc AS h_2, u.v2::text AS val_2, true AS a_3, u.hlc AS h_3, u.v3::date AS val_3, u.xids, u.images
    FROM unnest($2::text::int8[], $3::text::text[], $4::text::text[], $5::text::text[], $6::text::xid[], $7::text::jsonb[]) WITH ORDINALITY AS u(hlc, k1, v2, v3, xids, images, ord)
    WHERE u.ord BETWEEN $8::int8 AND $9::int8 ORDER BY k_1
), e AS MATERIALIZED (
    SELECT s.ctid AS s_ctid, g.k_1, CASE WHEN g.op IN ('I', 'R') THEN $1::int8::int2 ELSE 0 END::int2 AS row_node, CASE WHEN g.op IN ('I', 'R') THEN g.ins ELSE 0 END AS row_hlc, CASE WHEN g.op IN ('I', 'R', 'U') THEN $1::int8::int2 ELSE 0 END::int2 AS live_node, CASE WHEN g.op IN ('I', 'R', 'U') THEN g.hlc ELSE 0 END AS live_hlc, CASE WHEN g.op = 'D' THEN $1::int8::int2 END AS dead_node, CASE WHEN g.op = 'D' THEN g.hlc END AS dead_hlc, CASE WHEN g.op <> 'D' THEN g.xids END AS row_xmin, g.images AS image, CASE WHEN g.a_2 AND (g.op NOT IN ('I', 'R') OR g.h_2 <> g.ins) THEN $1::int8::int2 END AS n_2, CASE WHEN g.a_2 AND (g.op NOT IN ('I', 'R') OR g.h_2 <> g.ins) THEN g.h_2 END AS h_2, CASE WHEN g.a_3 AND (g.op NOT IN ('I', 'R') OR g.h_3 <> g.ins) THEN $1::int8::int2 END AS n_3, CASE WHEN g.a_3 AND (g.op NOT IN ('I', 'R') OR g.h_3 <> g.ins) THEN g.h_3 END AS h_3
    FROM g LEFT JOIN LATERAL (SELECT s.ctid FROM crdt_state.row_1 AS s WHERE s.k_1 = g.k_1 LIMIT 1) AS s ON true
), known AS (
    UPDATE crdt_state.row_1 AS s SET
      row_node = CASE WHEN (excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) THEN excluded.row_node ELSE s.row_node END,
      row_hlc = CASE WHEN (excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) THEN excluded.row_hlc ELSE s.row_hlc END,
      live_node = CASE WHEN excluded.live_hlc > 0 THEN excluded.live_node ELSE s.live_node END,
      live_hlc = CASE WHEN excluded.live_hlc > 0 THEN excluded.live_hlc ELSE s.live_hlc END,
      dead_node = CASE WHEN NOT ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) AND excluded.dead_hlc IS NULL AND s.dead_hlc = excluded.live_hlc) THEN coalesce(excluded.dead_node, s.dead_node) END,
      dead_hlc = CASE WHEN NOT ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) AND excluded.dead_hlc IS NULL AND s.dead_hlc = excluded.live_hlc) THEN coalesce(excluded.dead_hlc, s.dead_hlc) END,
      row_xmin = excluded.row_xmin,
      image = excluded.image,
      n_2 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_2 IS NOT NULL) THEN excluded.n_2 ELSE s.n_2 END,
      h_2 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_2 IS NOT NULL) THEN excluded.h_2 ELSE s.h_2 END,
      v_2 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_2 IS NOT NULL) AND coalesce(s.n_2, s.row_node) <> $1::int8::int2 AND coalesce(s.h_2, s.row_hlc) > 0 THEN crdt_state.vector_add(s.v_2, coalesce(s.n_2, s.row_node), coalesce(s.h_2, s.row_hlc), $1::int8::int2) ELSE s.v_2 END,
      n_3 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_3 IS NOT NULL) THEN excluded.n_3 ELSE s.n_3 END,
      h_3 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_3 IS NOT NULL) THEN excluded.h_3 ELSE s.h_3 END,
      v_3 = CASE WHEN ((excluded.row_node = $1::int8::int2 AND excluded.row_hlc > 0) OR excluded.h_3 IS NOT NULL) AND coalesce(s.n_3, s.row_node) <> $1::int8::int2 AND coalesce(s.h_3, s.row_hlc) > 0 THEN crdt_state.vector_add(s.v_3, coalesce(s.n_3, s.row_node), coalesce(s.h_3, s.row_hlc), $1::int8::int2) ELSE s.v_3 END
    FROM (SELECT * FROM e WHERE s_ctid IS NOT NULL) AS excluded WHERE s.ctid = excluded.s_ctid
    RETURNING s.k_1, s.row_xmin, s.row_node
), unknown AS (
    INSERT INTO crdt_state.row_1 AS s (k_1, row_node, row_hlc, live_node, live_hlc, dead_node, dead_hlc, row_xmin, image, n_2, h_2, n_3, h_3)
    SELECT k_1, row_node, row_hlc, live_node, live_hlc, dead_node, dead_hlc, row_xmin, image, n_2, h_2, n_3, h_3 FROM e WHERE s_ctid IS NULL
    RETURNING s.k_1, s.row_xmin, s.row_node
), up AS (SELECT * FROM known UNION ALL SELECT * FROM unknown)
INSERT INTO crdt_state.rewrite (table_id, row_key)
SELECT 1, ARRAY[up.k_1::text] FROM up WHERE up.row_xmin IS NULL AND EXISTS (SELECT FROM "public"."profile" AS t WHERE t."id" = up.k_1) RETURNING id, row_key
