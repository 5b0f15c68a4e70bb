-- Parameters:
--   $1: origins
--   $2: contexts
--   $3: ops
--   $4: hlcs
--   $5: inserted
--   $6: mask:0
--   $7: key:2
--   $8: key:1
--   $9: value:4
--   $10: bit:4
--   $11: accepted
--   $12: members
--   $13: first
--   $14: last
--   $15: locked
--   $16: from_hlcs
--   $17: to_hlcs
WITH g AS (
    SELECT u.ord, u.op, u.hlc, u.ins, u.k2::character varying AS k_2, u.k1::bigint AS k_1, coalesce(u.m0 & $10::int8 <> 0, false) AS a_4, coalesce(u.v4::numeric, 0) AS d_4, u.accepted, u.members
    FROM unnest($3::text::"char"[], $4::text::int8[], $5::text::int8[], $6::text::int8[], $7::text::text[], $8::text::text[], $9::text::text[], $11::text::text[], $12::text::int4[]) WITH ORDINALITY AS u(op, hlc, ins, m0, k2, k1, v4, accepted, members, ord)
    WHERE u.ord BETWEEN $13::int8 AND $14::int8 ORDER BY k_2, k_1
), j AS (
    SELECT g.*,
      coalesce(g.members, 1) AS member,
      ($1::int8[])[coalesce(g.members, 1)] AS origin,
      s.ctid AS s_ctid,
      t.ctid AS t_ctid,
      t.xmin AS t_xmin,
      t.ctid IS NOT NULL AS present,
      coalesce(s.row_hlc, 0) AS s_row_hlc,
      coalesce(s.row_node, 0::int2) AS s_row_node,
      coalesce(s.live_hlc, 0) AS s_live_hlc,
      coalesce(s.live_node, 0::int2) AS s_live_node,
      s.dead_hlc AS s_dead_hlc,
      s.dead_node AS s_dead_node,
      s.image AS image,
      CASE WHEN g.accepted IS NOT NULL AND (coalesce(t.xmin::text, concat('-', coalesce(s.live_hlc, 0), '.', s.dead_hlc)) = ANY (string_to_array(g.accepted, ' ')) OR g.accepted = '' AND t.ctid IS NULL) THEN false WHEN s.ctid IS NULL THEN t.ctid IS NOT NULL OR g.op IN ('U', 'R') OR g.op = 'D' AND g.ins IS NULL ELSE (t.ctid IS NOT NULL) <> (s.dead_hlc IS NULL OR (s.live_hlc, s.live_node) > (s.dead_hlc, s.dead_node)) OR (t.ctid IS NOT NULL AND t.xmin IS DISTINCT FROM s.row_xmin) END AND NOT ($15::int8 = 1 AND t.ctid IS NOT NULL AND crdt_state.is_own(t.xmin)) AS dirty,
      t."amount" AS old_4,
      coalesce(s.x_4, 0) AS sx_4,
      t."views" AS old_5,
      coalesce(s.x_5, 0) AS sx_5,
      t."price" AS old_7,
      coalesce(s.x_7, 0) AS sx_7
    FROM g LEFT JOIN LATERAL (SELECT s.ctid, s.* FROM crdt_state.row_2 AS s WHERE s.k_2 = g.k_2 AND s.k_1 = g.k_1 LIMIT 1) AS s ON true
    LEFT JOIN LATERAL (SELECT t.ctid, t.xmin, t.* FROM "Shop's"."the ""stock""" AS t WHERE t."region" = g.k_2 AND t."id" = g.k_1 LIMIT 1) AS t ON true
    OFFSET 0
), p AS MATERIALIZED (
    SELECT CASE WHEN q.alive AND q.present THEN CASE WHEN (least(greatest(q.true_4, -2147483648), 2147483647)::integer) IS DISTINCT FROM q.old_4 OR (least(greatest(q.true_5, -9223372036854775808), 9223372036854775807)::bigint) IS DISTINCT FROM q.old_5 OR (CASE WHEN q.keep_7 THEN CASE WHEN q.present THEN q.old_7 ELSE (q.image ->> 'price')::numeric(10,2) END ELSE least(greatest(q.true_7, -(10::numeric ^ 8 - 10::numeric ^ -2)), (10::numeric ^ 8 - 10::numeric ^ -2))::numeric(10,2) END)::text IS DISTINCT FROM q.old_7::text THEN 'U'::"char" ELSE 'N'::"char" END
        WHEN q.alive THEN CASE WHEN q.image IS NULL THEN 'M'::"char" ELSE 'I'::"char" END WHEN q.present THEN 'D'::"char" ELSE 'N'::"char" END AS act,
      (q.conf_row OR (q.a_4 AND q.alive AND q.true_4 <> least(greatest(q.true_4, -2147483648), 2147483647)::integer)) AS concurrent,
      q.op, q.dirty, q.present, q.alive, q.conf_row, q.a_4, q.keep_7,
      q.member, q.ord, q.hlc, q.origin, q.live_hlc, q.live_node, q.k_2, q.k_1, q.s_ctid, q.t_ctid, q.t_xmin, q.d_4, q.true_4, q.true_5, q.true_7, q.old_7, q.image,
      CASE WHEN NOT q.alive THEN q.image END AS new_image, CASE WHEN q.dirty THEN coalesce(q.t_xmin::text, concat('-', q.s_live_hlc, '.', q.s_dead_hlc)) END AS seen
    FROM (SELECT v.*, (v.dead_hlc IS NULL OR (v.live_hlc, v.live_node) > (v.dead_hlc, v.dead_node)) AS alive FROM (
      SELECT j.*, CASE WHEN j.op = 'U' AND (j.hlc > j.s_live_hlc OR j.hlc = j.s_live_hlc AND j.origin >= j.s_live_node) THEN j.hlc ELSE j.s_live_hlc END AS live_hlc,
      CASE WHEN j.op = 'U' AND (j.hlc > j.s_live_hlc OR j.hlc = j.s_live_hlc AND j.origin >= j.s_live_node) THEN j.origin ELSE j.s_live_node END AS live_node,
      j.s_dead_hlc AS dead_hlc,
      j.s_dead_node AS dead_node,
      j.op <> 'T' AND j.s_dead_hlc IS NOT NULL AND NOT (j.s_dead_node = j.origin OR j.s_dead_hlc <= coalesce(($2::int8[])[j.member][j.s_dead_node], 0)) AS conf_row,
      coalesce(j.old_4, 0)::numeric + j.sx_4 + CASE WHEN j.a_4 THEN j.d_4 ELSE 0 END AS true_4,
      coalesce(j.old_5, 0)::numeric + j.sx_5 AS true_5,
      CASE WHEN j.old_7 IN ('NaN', 'Infinity', '-Infinity') THEN 0 ELSE coalesce(j.old_7, 0) END::numeric + j.sx_7 AS true_7,
      ((j.present OR j.image ? 'price') AND j.s_row_node = 0 AND j.op NOT IN ('I', 'R') AND NOT EXISTS (SELECT FROM crdt_state.counter_2 AS c WHERE c.k_2 = j.k_2 AND c.k_1 = j.k_1 AND c.attnum = 7 AND c.node <> 0) AND NOT EXISTS (SELECT FROM crdt_state.truncation AS e WHERE e.table_id = 2)) AS keep_7
      FROM j OFFSET 0) AS v OFFSET 0) AS q
), go AS MATERIALIZED (
    SELECT count(*) AS staged, NOT coalesce(bool_or(dirty), false) AS clean,
      count(*) FILTER (WHERE p.act IN ('D', 'X')) AS planned_del,
      count(*) FILTER (WHERE p.act IN ('U')) AS planned_upd,
      count(*) FILTER (WHERE p.act IN ('I', 'X')) AS planned_ins,
      count(*) FILTER (WHERE act = 'M') AS absent, count(*) FILTER (WHERE concurrent) AS concurrent,
      count(s_ctid) AS known, count(*) - count(s_ctid) AS unknown,
      array_agg(ord) FILTER (WHERE NOT present AND NOT alive) AS vacant,
      array_agg(ord) FILTER (WHERE dirty) AS dirty,
      array_agg(seen) FILTER (WHERE dirty) AS dirty_seen
    FROM p
), del AS (
    DELETE FROM "Shop's"."the ""stock""" AS t USING (SELECT p.t_ctid, p.t_xmin FROM p WHERE p.act IN ('D', 'X') AND (SELECT clean AND planned_del > 0 FROM go) OFFSET 0) AS p WHERE t.ctid = p.t_ctid AND t.xmin = p.t_xmin RETURNING 1
), upd AS (
    UPDATE "Shop's"."the ""stock""" AS t SET "amount" = least(greatest(p.true_4, -2147483648), 2147483647)::integer,
      "views" = least(greatest(p.true_5, -9223372036854775808), 9223372036854775807)::bigint,
      "price" = CASE WHEN p.keep_7 THEN CASE WHEN p.present THEN p.old_7 ELSE (p.image ->> 'price')::numeric(10,2) END ELSE least(greatest(p.true_7, -(10::numeric ^ 8 - 10::numeric ^ -2)), (10::numeric ^ 8 - 10::numeric ^ -2))::numeric(10,2) END
    FROM (SELECT p.present, p.keep_7, p.t_ctid, p.t_xmin, p.true_4, p.true_5, p.true_7, p.old_7, p.image FROM p WHERE p.act IN ('U') AND (SELECT clean AND planned_upd > 0 FROM go) OFFSET 0) AS p WHERE t.ctid = p.t_ctid AND t.xmin = p.t_xmin RETURNING 1
), ins AS (
    INSERT INTO "Shop's"."the ""stock""" ("region", "id", "label", "amount", "views", "price") OVERRIDING SYSTEM VALUE
    SELECT p.k_2,
      p.k_1,
      (p.image ->> 'label')::text,
      least(greatest(p.true_4, -2147483648), 2147483647)::integer,
      least(greatest(p.true_5, -9223372036854775808), 9223372036854775807)::bigint,
      CASE WHEN p.keep_7 THEN CASE WHEN p.present THEN p.old_7 ELSE (p.image ->> 'price')::numeric(10,2) END ELSE least(greatest(p.true_7, -(10::numeric ^ 8 - 10::numeric ^ -2)), (10::numeric ^ 8 - 10::numeric ^ -2))::numeric(10,2) END
    FROM p WHERE p.act IN ('I', 'X') AND (SELECT clean AND planned_ins > 0 FROM go) RETURNING 1
), st_upd AS (
    UPDATE crdt_state.row_2 AS s SET live_node = p.live_node::int2,
      live_hlc = p.live_hlc,
      row_xmin = CASE WHEN p.act IN ('U', 'I', 'X') THEN pg_current_xact_id()::xid WHEN p.alive AND p.present THEN p.t_xmin END,
      image = p.new_image,
      x_4 = nullif(p.true_4 - CASE WHEN p.alive THEN least(greatest(p.true_4, -2147483648), 2147483647)::integer ELSE 0 END, 0),
      x_5 = nullif(p.true_5 - CASE WHEN p.alive THEN least(greatest(p.true_5, -9223372036854775808), 9223372036854775807)::bigint ELSE 0 END, 0),
      x_7 = nullif(p.true_7 - CASE WHEN p.alive THEN least(greatest(p.true_7, -(10::numeric ^ 8 - 10::numeric ^ -2)), (10::numeric ^ 8 - 10::numeric ^ -2))::numeric(10,2) ELSE 0 END, 0)
    FROM (SELECT p.act, p.present, p.alive, p.live_hlc, p.live_node, p.s_ctid, p.t_xmin, p.true_4, p.true_5, p.true_7, p.new_image FROM p WHERE p.s_ctid IS NOT NULL AND (SELECT clean AND known > 0 FROM go) OFFSET 0) AS p WHERE s.ctid = p.s_ctid
), st_ins AS (
    INSERT INTO crdt_state.row_2 (k_2, k_1, live_node, live_hlc, row_xmin, image, row_hlc, row_node, x_4, x_5, x_7)
    SELECT p.k_2,
      p.k_1,
      p.live_node::int2,
      p.live_hlc,
      CASE WHEN p.act IN ('U', 'I', 'X') THEN pg_current_xact_id()::xid WHEN p.alive AND p.present THEN p.t_xmin END,
      p.new_image,
      0,
      0::int2,
      nullif(p.true_4 - CASE WHEN p.alive THEN least(greatest(p.true_4, -2147483648), 2147483647)::integer ELSE 0 END, 0),
      nullif(p.true_5 - CASE WHEN p.alive THEN least(greatest(p.true_5, -9223372036854775808), 9223372036854775807)::bigint ELSE 0 END, 0),
      nullif(p.true_7 - CASE WHEN p.alive THEN least(greatest(p.true_7, -(10::numeric ^ 8 - 10::numeric ^ -2)), (10::numeric ^ 8 - 10::numeric ^ -2))::numeric(10,2) ELSE 0 END, 0)
    FROM p WHERE p.s_ctid IS NULL AND p.act <> 'M' AND (SELECT clean AND unknown > 0 FROM go)
), counted AS (
    INSERT INTO crdt_state.counter_2 AS c (k_2, k_1, attnum, node, increased, decreased) SELECT p.k_2, p.k_1, v.attnum, p.origin::int2, greatest(v.delta, 0), greatest(-v.delta, 0) FROM p, LATERAL (VALUES (4, CASE WHEN p.a_4 THEN p.d_4 ELSE 0 END, false)) AS v(attnum, delta, written) WHERE (v.delta <> 0 OR v.written AND p.op = 'U') AND p.act <> 'M' AND (SELECT clean AND staged > 0 FROM go) ON CONFLICT (k_2, k_1, attnum, node) DO UPDATE SET increased = c.increased + excluded.increased, decreased = c.decreased + excluded.decreased
), conflicts AS (
    INSERT INTO crdt_state.conflict (id, table_id, row_key, column_name, rule, kind, winner_node, winner_hlc, winner_value, winner_vector, loser_node, loser_hlc, loser_value, loser_vector)
    SELECT (SELECT (lpad(to_hex(greatest(c.hlc, c.here_hlc) >> 16), 12, '0') || '7' || substr(d.md5, 1, 3) || '8' || substr(d.md5, 4, 15))::uuid FROM (SELECT md5(concat_ws(E'\x01', 'Shop''s.the "stock"', jsonb_build_object('region', p.k_2::text, 'id', p.k_1::text)::text, c.name, CASE WHEN c.name IS NULL THEN 'row' ELSE c.kind END, coalesce(CASE WHEN c.kind = 'saturated' THEN c.value END, ''), least(c.hlc || '.' || CASE WHEN c.kind = 'saturated' THEN c.here_node ELSE p.origin END, c.here_hlc || '.' || c.here_node), greatest(c.hlc || '.' || CASE WHEN c.kind = 'saturated' THEN c.here_node ELSE p.origin END, c.here_hlc || '.' || c.here_node)))) AS d(md5)), 2, jsonb_build_object('region', p.k_2::text, 'id', p.k_1::text),
      c.name, c.rule, c.kind,
      CASE WHEN c.wins THEN CASE WHEN c.kind = 'saturated' THEN c.here_node ELSE p.origin END ELSE c.here_node END,
      CASE WHEN c.wins THEN c.hlc ELSE c.here_hlc END,
      CASE WHEN c.wins THEN c.value ELSE c.here_value END,
      CASE WHEN c.wins THEN CASE WHEN c.kind <> 'saturated' THEN crdt_state.seen_by(p.origin, c.hlc, ARRAY(SELECT unnest(($2::int8[])[p.member:p.member]))) END ELSE array_cat(ARRAY[c.here_node::int8, c.here_hlc], c.here_vector) END,
      CASE WHEN c.wins THEN c.here_node ELSE CASE WHEN c.kind = 'saturated' THEN c.here_node ELSE p.origin END END,
      CASE WHEN c.wins THEN c.here_hlc ELSE c.hlc END,
      CASE WHEN c.wins THEN c.here_value ELSE c.value END,
      CASE WHEN c.wins THEN array_cat(ARRAY[c.here_node::int8, c.here_hlc], c.here_vector) ELSE CASE WHEN c.kind <> 'saturated' THEN crdt_state.seen_by(p.origin, c.hlc, ARRAY(SELECT unnest(($2::int8[])[p.member:p.member]))) END END
    FROM p LEFT JOIN crdt_state.row_2 AS s ON s.ctid = p.s_ctid
    LEFT JOIN "Shop's"."the ""stock""" AS t ON t.ctid = p.t_ctid,
    LATERAL (VALUES ('amount', 'pn_counter', 'saturated', (p.a_4 AND p.alive AND p.true_4 <> least(greatest(p.true_4, -2147483648), 2147483647)::integer), false, p.live_hlc, p.true_4::text, p.live_hlc, p.live_node::int2, (least(greatest(p.true_4, -2147483648), 2147483647)::integer)::text, NULL::int8[]),
      (NULL, 'row=lww', CASE WHEN (s.live_hlc, s.live_node) > (p.hlc, p.origin) THEN 'lost_delete' ELSE 'overwrite' END, p.conf_row AND p.op = 'D', NOT (s.live_hlc, s.live_node) > (p.hlc, p.origin), p.hlc, 'deleted', s.live_hlc, s.live_node, 'written', NULL::int8[]),
      (NULL, 'row=lww', CASE WHEN (p.hlc, p.origin) > (s.dead_hlc, s.dead_node) AND p.alive AND NOT p.present THEN 'revived' WHEN (p.hlc, p.origin) > (s.dead_hlc, s.dead_node) THEN 'lost_delete' ELSE 'overwrite' END, p.conf_row AND p.op <> 'D', (p.hlc, p.origin) > (s.dead_hlc, s.dead_node), p.hlc, 'written', s.dead_hlc, s.dead_node, 'deleted', NULL::int8[]))
      AS c(name, rule, kind, conflict, wins, hlc, value, here_hlc, here_node, here_value, here_vector)
    WHERE p.concurrent AND c.conflict AND c.value IS DISTINCT FROM c.here_value AND (SELECT clean AND concurrent > 0 FROM go)
    ON CONFLICT (id) DO NOTHING RETURNING 1
), missing AS (
    INSERT INTO crdt_state.quarantine (origin, from_hlc, to_hlc, table_name, row_key, change, sqlstate, reason)
    SELECT p.origin, ($16::int8[])[p.member], ($17::int8[])[p.member], 'Shop''s.the "stock"', jsonb_build_object('region', p.k_2::text, 'id', p.k_1::text), jsonb_build_object('amount', p.d_4::text), '02000', 'the row is not in this database and left no tombstone; copy it, then repeat the change'
    FROM p WHERE p.act = 'M' AND p.op <> 'T' AND (SELECT clean AND absent > 0 FROM go) RETURNING 1
)
SELECT (SELECT count(*) FROM del) AS del, (SELECT count(*) FROM upd) AS upd, (SELECT count(*) FROM ins) AS ins, (SELECT count(*) FROM conflicts) AS conflicts, (SELECT count(*) FROM missing) AS missing,
  staged, planned_del, planned_upd, planned_ins, vacant, dirty, dirty_seen
FROM go
