-- Parameters:
--   $1: origins
--   $2: contexts
--   $3: ops
--   $4: hlcs
--   $5: inserted
--   $6: mask:0
--   $7: key:1
--   $8: value:7
--   $9: bit:7
--   $10: late:7
--   $11: accepted
--   $12: members
--   $13: first
--   $14: last
--   $15: locked
--   $16: from_hlcs
--   $17: to_hlcs
WITH g AS (
    SELECT u.ord, u.op, u.hlc, u.ins, u.k1::bigint AS k_1, coalesce(u.m0 & $9::int8 <> 0, false) AS a_7, coalesce(u.l7, u.hlc) AS h_7, u.v7::jsonb AS c_7, u.accepted, u.members
    FROM unnest($3::text::"char"[], $4::text::int8[], $5::text::int8[], $6::text::int8[], $7::text::text[], $8::text::text[], $10::text::int8[], $11::text::text[], $12::text::int4[]) WITH ORDINALITY AS u(op, hlc, ins, m0, k1, v7, l7, accepted, members, ord)
    WHERE u.ord BETWEEN $13::int8 AND $14::int8 ORDER BY k_1
), j AS (
    SELECT m.*, CASE WHEN m.ne_7 IS NOT NULL AND (m.a_7 OR m.op = 'T' OR NOT m.present) THEN coalesce(nullif(crdt_state.dots_elements(m.ne_7, false), '{}')::text, CASE WHEN m.nz_7 IS NOT TRUE THEN '{}' END)::text[] WHEN m.present THEN m.old_7 ELSE (m.image ->> 'tags')::text[] END AS ns_7
    FROM (
    SELECT i.*, (i.a_7 AND (i.h_7 > i.sh_7 OR i.h_7 = i.sh_7 AND i.origin >= i.sn_7)) AS win_7,
      CASE WHEN i.a_7 THEN crdt_state.dots_merge(coalesce(i.e_7, crdt_state.genesis_dots((CASE WHEN i.present THEN i.old_7::text ELSE i.image ->> 'tags' END)::text[])), i.c_7, i.origin, i.context) ELSE i.e_7 END AS ne_7,
      CASE WHEN i.a_7 AND (i.h_7 > i.sh_7 OR i.h_7 = i.sh_7 AND i.origin >= i.sn_7) THEN coalesce((i.c_7 -> 'null')::boolean, false) ELSE i.z_7 END AS nz_7,
      CASE WHEN i.a_7 AND i.context IS NOT NULL THEN crdt_state.dots_conflicts(coalesce(i.e_7, crdt_state.genesis_dots((CASE WHEN i.present THEN i.old_7::text ELSE i.image ->> 'tags' END)::text[])), i.c_7, i.origin, i.context) END AS ec_7
    FROM (
    SELECT h.*, CASE WHEN h.a_7 AND (h.sv_7 IS NOT NULL OR NOT (h.sn_7 = h.origin OR h.sh_7 <= coalesce(($2::int8[])[h.member][h.sn_7], 0))) THEN ARRAY(SELECT unnest(($2::int8[])[h.member:h.member])) END AS context FROM (
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
      t."hits" AS old_11,
      coalesce(s.x_11, 0) AS sx_11,
      coalesce(s.h_7, s.row_hlc, 0) AS sh_7,
      coalesce(s.n_7, s.row_node, 0::int2) AS sn_7,
      t."tags" AS old_7,
      s.v_7 AS sv_7,
      s.e_7,
      s.z_7,
      CASE WHEN t.ctid IS NULL THEN s.e_6 END AS e_6,
      CASE WHEN t.ctid IS NULL THEN s.z_6 END AS z_6,
      CASE WHEN t.ctid IS NULL THEN s.e_8 END AS e_8,
      CASE WHEN t.ctid IS NULL THEN s.z_8 END AS z_8,
      CASE WHEN t.ctid IS NULL THEN s.e_9 END AS e_9,
      CASE WHEN t.ctid IS NULL THEN s.z_9 END AS z_9,
      CASE WHEN t.ctid IS NULL THEN s.e_10 END AS e_10,
      CASE WHEN t.ctid IS NULL THEN s.z_10 END AS z_10
    FROM g LEFT JOIN LATERAL (SELECT s.ctid, s.* FROM crdt_state.row_3 AS s WHERE s.k_1 = g.k_1 LIMIT 1) AS s ON true
    LEFT JOIN LATERAL (SELECT t.ctid, t.xmin, t.* FROM "shop"."basket" AS t WHERE t."id" = g.k_1 LIMIT 1) AS t ON true
    OFFSET 0) AS h OFFSET 0) AS i OFFSET 0) AS m OFFSET 0
), p AS MATERIALIZED (
    SELECT CASE WHEN q.alive AND q.present THEN CASE WHEN (least(greatest(q.true_11, -2147483648), 2147483647)::integer) IS DISTINCT FROM q.old_11 OR ((q.a_7 OR q.op = 'T') AND q.ns_7::text IS DISTINCT FROM q.old_7::text) THEN 'U'::"char" ELSE 'N'::"char" END
        WHEN q.alive THEN CASE WHEN q.image IS NULL THEN 'M'::"char" ELSE 'I'::"char" END WHEN q.present THEN 'D'::"char" ELSE 'N'::"char" END AS act,
      (q.conf_row) AS concurrent,
      (q.ec_7 IS NOT NULL) AS within,
      q.op, q.dirty, q.present, q.alive, q.conf_row, q.a_7, q.win_7,
      q.member, q.ord, q.hlc, q.origin, q.live_hlc, q.live_node, q.k_1, q.s_ctid, q.t_ctid, q.t_xmin, q.true_11, q.h_7, q.c_7, q.ne_7, q.nz_7, q.ec_7, q.ns_7, q.e_6, q.z_6, q.e_8, q.z_8, q.e_9, q.z_9, q.e_10, q.z_10, q.image,
      CASE WHEN NOT q.alive THEN q.image || CASE WHEN q.a_7 THEN jsonb_build_object('tags', q.ns_7::text) ELSE '{}'::jsonb END END AS new_image, CASE WHEN q.dirty THEN coalesce(q.t_xmin::text, concat('-', q.s_live_hlc, '.', q.s_dead_hlc)) END AS seen
    FROM (SELECT v.*, (v.dead_hlc IS NULL OR (v.live_hlc, v.live_node) > (v.dead_hlc, v.dead_node)) AS alive FROM (
      SELECT j.*, CASE WHEN j.op = 'U' AND (j.hlc > j.s_live_hlc OR j.hlc = j.s_live_hlc AND j.origin >= j.s_live_node) THEN j.hlc ELSE j.s_live_hlc END AS live_hlc,
      CASE WHEN j.op = 'U' AND (j.hlc > j.s_live_hlc OR j.hlc = j.s_live_hlc AND j.origin >= j.s_live_node) THEN j.origin ELSE j.s_live_node END AS live_node,
      j.s_dead_hlc AS dead_hlc,
      j.s_dead_node AS dead_node,
      j.op <> 'T' AND j.s_dead_hlc IS NOT NULL AND NOT (j.s_dead_node = j.origin OR j.s_dead_hlc <= coalesce(($2::int8[])[j.member][j.s_dead_node], 0)) AS conf_row,
      coalesce(j.old_11, 0)::numeric + j.sx_11 AS true_11
      FROM j OFFSET 0) AS v OFFSET 0) AS q
), go AS MATERIALIZED (
    SELECT count(*) AS staged, NOT coalesce(bool_or(dirty), false) AS clean,
      count(*) FILTER (WHERE p.act IN ('D', 'X')) AS planned_del,
      count(*) FILTER (WHERE p.act IN ('U')) AS planned_upd,
      count(*) FILTER (WHERE p.act IN ('I', 'X')) AS planned_ins,
      count(*) FILTER (WHERE act = 'M') AS absent, count(*) FILTER (WHERE concurrent) AS concurrent, count(*) FILTER (WHERE within) AS within,
      count(s_ctid) AS known, count(*) - count(s_ctid) AS unknown,
      array_agg(ord) FILTER (WHERE NOT present AND NOT alive) AS vacant,
      array_agg(ord) FILTER (WHERE dirty) AS dirty,
      array_agg(seen) FILTER (WHERE dirty) AS dirty_seen
    FROM p
), del AS (
    DELETE FROM "shop"."basket" AS t USING (SELECT p.t_ctid, p.t_xmin FROM p WHERE p.act IN ('D', 'X') AND (SELECT clean AND planned_del > 0 FROM go) OFFSET 0) AS p WHERE t.ctid = p.t_ctid AND t.xmin = p.t_xmin RETURNING 1
), upd AS (
    UPDATE "shop"."basket" AS t SET "hits" = least(greatest(p.true_11, -2147483648), 2147483647)::integer,
      "tags" = p.ns_7
    FROM (SELECT p.t_ctid, p.t_xmin, p.true_11, p.ns_7 FROM p WHERE p.act IN ('U') AND (SELECT clean AND planned_upd > 0 FROM go) OFFSET 0) AS p WHERE t.ctid = p.t_ctid AND t.xmin = p.t_xmin RETURNING 1
), ins AS (
    INSERT INTO "shop"."basket" ("id", "note", "best", "least", "cart", "seen", "tags", "sizes", "notes", "the prefs", "hits") OVERRIDING SYSTEM VALUE
    SELECT p.k_1,
      (p.image ->> 'note')::text,
      (p.image ->> 'best')::character varying,
      (p.image ->> 'least')::integer,
      (p.image ->> 'cart')::jsonb,
      CASE WHEN p.e_6 IS NULL THEN (p.image ->> 'seen')::uuid[] ELSE coalesce(nullif(crdt_state.dots_elements(p.e_6, false), '{}')::text, CASE WHEN p.z_6 IS NOT TRUE THEN '{}' END)::uuid[] END,
      p.ns_7,
      CASE WHEN p.e_8 IS NULL THEN (p.image ->> 'sizes')::integer[] ELSE coalesce(nullif(crdt_state.dots_elements(p.e_8, true), '{}')::text, CASE WHEN p.z_8 IS NOT TRUE THEN '{}' END)::integer[] END,
      CASE WHEN p.e_9 IS NULL THEN (p.image ->> 'notes')::jsonb ELSE coalesce(crdt_state.json_array(nullif(crdt_state.stamps_elements(p.e_9, true), '{}')), CASE WHEN p.z_9 IS NOT TRUE THEN '[]'::jsonb END)::jsonb END,
      CASE WHEN p.e_10 IS NULL THEN (p.image ->> 'the prefs')::jsonb ELSE coalesce(nullif(crdt_state.map_value(p.e_10), '{}'), CASE WHEN p.z_10 IS NOT TRUE THEN '{}'::jsonb END)::jsonb END,
      least(greatest(p.true_11, -2147483648), 2147483647)::integer
    FROM p WHERE p.act IN ('I', 'X') AND (SELECT clean AND planned_ins > 0 FROM go) RETURNING 1
), st_upd AS (
    UPDATE crdt_state.row_3 AS s SET live_node = p.live_node::int2,
      live_hlc = p.live_hlc,
      row_xmin = CASE WHEN p.act IN ('U', 'I', 'X') THEN pg_current_xact_id()::xid WHEN p.alive AND p.present THEN p.t_xmin END,
      image = p.new_image,
      x_11 = nullif(p.true_11 - CASE WHEN p.alive THEN least(greatest(p.true_11, -2147483648), 2147483647)::integer ELSE 0 END, 0),
      n_7 = CASE WHEN p.win_7 THEN CASE WHEN NOT (p.h_7 = s.row_hlc AND p.origin = s.row_node) THEN p.origin::int2 END ELSE s.n_7 END,
      h_7 = CASE WHEN p.win_7 THEN CASE WHEN NOT (p.h_7 = s.row_hlc AND p.origin = s.row_node) THEN p.h_7 END ELSE s.h_7 END,
      v_7 = CASE WHEN p.win_7 THEN CASE WHEN coalesce(s.n_7, s.row_node) <> p.origin AND coalesce(s.h_7, s.row_hlc) > 0 THEN CASE WHEN coalesce(s.n_7, s.row_node) <> p.origin AND coalesce(s.h_7, s.row_hlc) > 0 AND (s.v_7 IS NULL OR cardinality(s.v_7) = 2 AND s.v_7[1] IN (coalesce(s.n_7, s.row_node), p.origin)) THEN ARRAY[coalesce(s.n_7, s.row_node)::int8, greatest(coalesce(s.h_7, s.row_hlc), CASE WHEN s.v_7[1] = coalesce(s.n_7, s.row_node) THEN s.v_7[2] END)] ELSE crdt_state.vector_add(s.v_7, coalesce(s.n_7, s.row_node), coalesce(s.h_7, s.row_hlc), p.origin) END ELSE s.v_7 END WHEN p.a_7 THEN CASE WHEN p.origin <> coalesce(s.n_7, s.row_node) AND p.h_7 > 0 AND (s.v_7 IS NULL OR cardinality(s.v_7) = 2 AND s.v_7[1] IN (p.origin, coalesce(s.n_7, s.row_node))) THEN ARRAY[p.origin::int8, greatest(p.h_7, CASE WHEN s.v_7[1] = p.origin THEN s.v_7[2] END)] ELSE crdt_state.vector_add(s.v_7, p.origin, p.h_7, coalesce(s.n_7, s.row_node)) END ELSE s.v_7 END,
      e_7 = p.ne_7,
      z_7 = p.nz_7
    FROM (SELECT p.act, p.present, p.alive, p.a_7, p.win_7, p.origin, p.live_hlc, p.live_node, p.s_ctid, p.t_xmin, p.true_11, p.h_7, p.ne_7, p.nz_7, p.new_image FROM p WHERE p.s_ctid IS NOT NULL AND (SELECT clean AND known > 0 FROM go) OFFSET 0) AS p WHERE s.ctid = p.s_ctid
), st_ins AS (
    INSERT INTO crdt_state.row_3 (k_1, live_node, live_hlc, row_xmin, image, row_hlc, row_node, x_11, n_7, h_7, e_7, z_7)
    SELECT p.k_1,
      p.live_node::int2,
      p.live_hlc,
      CASE WHEN p.act IN ('U', 'I', 'X') THEN pg_current_xact_id()::xid WHEN p.alive AND p.present THEN p.t_xmin END,
      p.new_image,
      0,
      0::int2,
      nullif(p.true_11 - CASE WHEN p.alive THEN least(greatest(p.true_11, -2147483648), 2147483647)::integer ELSE 0 END, 0),
      CASE WHEN p.win_7 THEN CASE WHEN NOT (p.h_7 = 0 AND p.origin = 0) THEN p.origin::int2 END WHEN NOT (0 = 0 AND 0 = 0) THEN 0::int2 END,
      CASE WHEN p.win_7 THEN CASE WHEN NOT (p.h_7 = 0 AND p.origin = 0) THEN p.h_7 END WHEN NOT (0 = 0 AND 0 = 0) THEN 0 END,
      p.ne_7,
      p.nz_7
    FROM p WHERE p.s_ctid IS NULL AND p.act <> 'M' AND (SELECT clean AND unknown > 0 FROM go)
), conflicts AS (
    INSERT INTO crdt_state.conflict (id, table_id, row_key, column_name, rule, kind, winner_node, winner_hlc, winner_value, winner_vector, loser_node, loser_hlc, loser_value, loser_vector)
    SELECT (SELECT (lpad(to_hex(greatest(c.hlc, c.here_hlc) >> 16), 12, '0') || '7' || substr(d.md5, 1, 3) || '8' || substr(d.md5, 4, 15))::uuid FROM (SELECT md5(concat_ws(E'\x01', 'shop.basket', jsonb_build_object('id', p.k_1::text)::text, c.name, CASE WHEN c.name IS NULL THEN 'row' ELSE c.kind END, coalesce(NULL, ''), least(c.hlc || '.' || p.origin, c.here_hlc || '.' || c.here_node), greatest(c.hlc || '.' || p.origin, c.here_hlc || '.' || c.here_node)))) AS d(md5)), 3, jsonb_build_object('id', p.k_1::text),
      c.name, c.rule, c.kind,
      CASE WHEN c.wins THEN p.origin ELSE c.here_node END,
      CASE WHEN c.wins THEN c.hlc ELSE c.here_hlc END,
      CASE WHEN c.wins THEN c.value ELSE c.here_value END,
      CASE WHEN c.wins THEN crdt_state.seen_by(p.origin, c.hlc, ARRAY(SELECT unnest(($2::int8[])[p.member:p.member]))) ELSE array_cat(ARRAY[c.here_node::int8, c.here_hlc], c.here_vector) END,
      CASE WHEN c.wins THEN c.here_node ELSE p.origin END,
      CASE WHEN c.wins THEN c.here_hlc ELSE c.hlc END,
      CASE WHEN c.wins THEN c.here_value ELSE c.value END,
      CASE WHEN c.wins THEN array_cat(ARRAY[c.here_node::int8, c.here_hlc], c.here_vector) ELSE crdt_state.seen_by(p.origin, c.hlc, ARRAY(SELECT unnest(($2::int8[])[p.member:p.member]))) END
    FROM p LEFT JOIN crdt_state.row_3 AS s ON s.ctid = p.s_ctid
    LEFT JOIN "shop"."basket" AS t ON t.ctid = p.t_ctid,
    LATERAL (VALUES (NULL, 'row=lww', CASE WHEN (s.live_hlc, s.live_node) > (p.hlc, p.origin) THEN 'lost_delete' ELSE 'overwrite' END, p.conf_row AND p.op = 'D', NOT (s.live_hlc, s.live_node) > (p.hlc, p.origin), p.hlc, 'deleted', s.live_hlc, s.live_node, 'written', NULL::int8[]),
      (NULL, 'row=lww', CASE WHEN (p.hlc, p.origin) > (s.dead_hlc, s.dead_node) AND p.alive AND NOT p.present THEN 'revived' WHEN (p.hlc, p.origin) > (s.dead_hlc, s.dead_node) THEN 'lost_delete' ELSE 'overwrite' END, p.conf_row AND p.op <> 'D', (p.hlc, p.origin) > (s.dead_hlc, s.dead_node), p.hlc, 'written', s.dead_hlc, s.dead_node, 'deleted', NULL::int8[]))
      AS c(name, rule, kind, conflict, wins, hlc, value, here_hlc, here_node, here_value, here_vector)
    WHERE p.concurrent AND c.conflict AND c.value IS DISTINCT FROM c.here_value AND (SELECT clean AND concurrent > 0 FROM go)
    ON CONFLICT (id) DO NOTHING RETURNING 1
), missing AS (
    INSERT INTO crdt_state.quarantine (origin, from_hlc, to_hlc, table_name, row_key, change, sqlstate, reason)
    SELECT p.origin, ($16::int8[])[p.member], ($17::int8[])[p.member], 'shop.basket', jsonb_build_object('id', p.k_1::text), jsonb_build_object('tags', p.c_7::text), '02000', 'the row is not in this database and left no tombstone; copy it, then repeat the change'
    FROM p WHERE p.act = 'M' AND p.op <> 'T' AND (SELECT clean AND absent > 0 FROM go) RETURNING 1
), within AS (
    INSERT INTO crdt_state.conflict (id, table_id, row_key, column_name, element, rule, kind, note, winner_node, winner_hlc, winner_value, winner_vector, loser_node, loser_hlc, loser_value, loser_vector)
    SELECT (SELECT (lpad(to_hex(greatest(c.hlc, c.here_hlc) >> 16), 12, '0') || '7' || substr(d.md5, 1, 3) || '8' || substr(d.md5, 4, 15))::uuid FROM (SELECT md5(concat_ws(E'\x01', 'shop.basket', jsonb_build_object('id', p.k_1::text)::text, c.name, c.kind, coalesce(c.element, ''), least(c.hlc || '.' || c.node, c.here_hlc || '.' || c.here_node), greatest(c.hlc || '.' || c.node, c.here_hlc || '.' || c.here_node)))) AS d(md5)), 3, jsonb_build_object('id', p.k_1::text), c.name, c.element, c.rule, c.kind, c.note,
      CASE WHEN c.wins THEN c.node ELSE c.here_node END, CASE WHEN c.wins THEN c.hlc ELSE c.here_hlc END, CASE WHEN c.wins THEN c.value ELSE c.here_value END, CASE WHEN c.wins THEN CASE WHEN c.node = p.origin THEN crdt_state.seen_by(p.origin, c.hlc, ARRAY(SELECT unnest(($2::int8[])[p.member:p.member]))) ELSE array_cat(ARRAY[c.node::int8, c.hlc], c.here_vector) END ELSE CASE WHEN c.here_node = p.origin THEN crdt_state.seen_by(p.origin, c.here_hlc, ARRAY(SELECT unnest(($2::int8[])[p.member:p.member]))) ELSE array_cat(ARRAY[c.here_node::int8, c.here_hlc], c.here_vector) END END,
      CASE WHEN c.wins THEN c.here_node ELSE c.node END, CASE WHEN c.wins THEN c.here_hlc ELSE c.hlc END, CASE WHEN c.wins THEN c.here_value ELSE c.value END, CASE WHEN c.wins THEN CASE WHEN c.here_node = p.origin THEN crdt_state.seen_by(p.origin, c.here_hlc, ARRAY(SELECT unnest(($2::int8[])[p.member:p.member]))) ELSE array_cat(ARRAY[c.here_node::int8, c.here_hlc], c.here_vector) END ELSE CASE WHEN c.node = p.origin THEN crdt_state.seen_by(p.origin, c.hlc, ARRAY(SELECT unnest(($2::int8[])[p.member:p.member]))) ELSE array_cat(ARRAY[c.node::int8, c.hlc], c.here_vector) END END
    FROM p LEFT JOIN crdt_state.row_3 AS s ON s.ctid = p.s_ctid, LATERAL (SELECT 'tags', w.value ->> 0, 'or_set', 'lost_delete', NULL, (w.value -> 6)::boolean, p.origin, (w.value -> 1)::int8, w.value ->> 2, (w.value -> 3)::int8, (w.value -> 4)::int8, w.value ->> 5, NULL::int8[] FROM jsonb_array_elements(p.ec_7) AS w)
      AS c(name, element, rule, kind, note, wins, node, hlc, value, here_node, here_hlc, here_value, here_vector)
    WHERE p.within AND p.act <> 'M' AND c.value IS DISTINCT FROM c.here_value AND (SELECT clean AND within > 0 FROM go)
    ON CONFLICT (id) DO NOTHING RETURNING 1
)
SELECT (SELECT count(*) FROM del) AS del, (SELECT count(*) FROM upd) AS upd, (SELECT count(*) FROM ins) AS ins, (SELECT count(*) FROM conflicts) AS conflicts, (SELECT count(*) FROM missing) AS missing, (SELECT count(*) FROM within) AS within,
  staged, planned_del, planned_upd, planned_ins, vacant, dirty, dirty_seen
FROM go
