-- Parameters:
--   $1: origins
--   $2: contexts
--   $3: ops
--   $4: hlcs
--   $5: inserted
--   $6: mask:0
--   $7: key:1
--   $8: value:2
--   $9: bit:2
--   $10: late:2
--   $11: accepted
--   $12: members
--   $13: first
--   $14: last
--   $15: locked
--   $16: from_hlcs
--   $17: to_hlcs
WITH g AS (
    SELECT u.ord, u.op, u.hlc, u.ins, u.k1::uuid AS k_1, coalesce(u.m0 & $9::int8 <> 0, false) AS a_2, coalesce(u.l2, u.hlc) AS h_2, u.v2::text AS val_2, u.accepted, u.members
    FROM unnest($3::text::"char"[], $4::text::int8[], $5::text::int8[], $6::text::int8[], $7::text::text[], $8::text::text[], $10::text::int8[], $11::text::text[], $12::text::int4[]) WITH ORDINALITY AS u(op, hlc, ins, m0, k1, v2, l2, accepted, members, ord)
    WHERE u.ord BETWEEN $13::int8 AND $14::int8 ORDER BY k_1
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
      coalesce(s.h_2, s.row_hlc, 0) AS sh_2,
      coalesce(s.n_2, s.row_node, 0::int2) AS sn_2,
      t."name" AS old_2
    FROM g LEFT JOIN LATERAL (SELECT s.ctid, s.* FROM crdt_state.row_1 AS s WHERE s.k_1 = g.k_1 LIMIT 1) AS s ON true
    LEFT JOIN LATERAL (SELECT t.ctid, t.xmin, t.* FROM "public"."profile" AS t WHERE t."id" = g.k_1 LIMIT 1) AS t ON true
    OFFSET 0
), p AS MATERIALIZED (
    SELECT CASE WHEN q.alive AND q.present THEN CASE WHEN q.win_2 THEN 'U'::"char" ELSE 'N'::"char" END
        WHEN q.alive THEN CASE WHEN q.image IS NULL THEN 'M'::"char" ELSE 'I'::"char" END WHEN q.present THEN 'D'::"char" ELSE 'N'::"char" END AS act,
      (q.conf_row OR q.s_ctid IS NOT NULL AND ((q.a_2 AND NOT (q.sn_2 = q.origin OR q.sh_2 <= coalesce(($2::int8[])[q.member][q.sn_2], 0))))) AS concurrent,
      q.op, q.dirty, q.present, q.alive, q.conf_row, q.a_2, q.win_2,
      q.member, q.ord, q.hlc, q.origin, q.live_hlc, q.live_node, q.k_1, q.s_ctid, q.t_ctid, q.t_xmin, q.h_2, q.val_2, q.image,
      CASE WHEN NOT q.alive THEN q.image || CASE WHEN q.win_2 THEN jsonb_build_object('name', q.val_2::text) ELSE '{}'::jsonb END END AS new_image, CASE WHEN q.dirty THEN coalesce(q.t_xmin::text, concat('-', q.s_live_hlc, '.', q.s_dead_hlc)) END AS seen
    FROM (SELECT v.*, (v.dead_hlc IS NULL OR (v.live_hlc, v.live_node) > (v.dead_hlc, v.dead_node)) AS alive FROM (
      SELECT j.*, CASE WHEN j.op = 'U' AND (j.hlc > j.s_live_hlc OR j.hlc = j.s_live_hlc AND j.origin >= j.s_live_node) THEN j.hlc ELSE j.s_live_hlc END AS live_hlc,
      CASE WHEN j.op = 'U' AND (j.hlc > j.s_live_hlc OR j.hlc = j.s_live_hlc AND j.origin >= j.s_live_node) THEN j.origin ELSE j.s_live_node END AS live_node,
      j.s_dead_hlc AS dead_hlc,
      j.s_dead_node AS dead_node,
      j.op <> 'T' AND j.s_dead_hlc IS NOT NULL AND NOT (j.s_dead_node = j.origin OR j.s_dead_hlc <= coalesce(($2::int8[])[j.member][j.s_dead_node], 0)) AS conf_row,
      (j.a_2 AND (j.h_2 > j.sh_2 OR j.h_2 = j.sh_2 AND j.origin >= j.sn_2)) AS win_2
      FROM j OFFSET 0) AS v OFFSET 0) AS q ORDER BY q.ord
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
    DELETE FROM "public"."profile" AS t USING (SELECT p.t_ctid, p.t_xmin FROM p WHERE p.act IN ('D', 'X') AND (SELECT clean AND planned_del > 0 FROM go) OFFSET 0) AS p WHERE t.ctid = p.t_ctid AND t.xmin = p.t_xmin RETURNING 1
), upd AS (
    UPDATE "public"."profile" AS t SET "name" = CASE WHEN p.win_2 THEN p.val_2 ELSE t."name" END
    FROM (SELECT p.win_2, p.t_ctid, p.t_xmin, p.val_2 FROM p WHERE p.act IN ('U') AND (SELECT clean AND planned_upd > 0 FROM go) OFFSET 0) AS p WHERE t.ctid = p.t_ctid AND t.xmin = p.t_xmin RETURNING 1
), ins AS (
    INSERT INTO "public"."profile" ("id", "name", "born") OVERRIDING SYSTEM VALUE
    SELECT p.k_1,
      CASE WHEN p.win_2 THEN p.val_2 ELSE (p.image ->> 'name')::text END,
      (p.image ->> 'born')::date
    FROM p WHERE p.act IN ('I', 'X') AND (SELECT clean AND planned_ins > 0 FROM go) RETURNING 1
), st_upd AS (
    UPDATE crdt_state.row_1 AS s SET live_node = p.live_node::int2,
      live_hlc = p.live_hlc,
      row_xmin = CASE WHEN p.act IN ('U', 'I', 'X') THEN pg_current_xact_id()::xid WHEN p.alive AND p.present THEN p.t_xmin END,
      image = p.new_image,
      n_2 = CASE WHEN p.win_2 THEN CASE WHEN NOT (p.h_2 = s.row_hlc AND p.origin = s.row_node) THEN p.origin::int2 END ELSE s.n_2 END,
      h_2 = CASE WHEN p.win_2 THEN CASE WHEN NOT (p.h_2 = s.row_hlc AND p.origin = s.row_node) THEN p.h_2 END ELSE s.h_2 END,
      v_2 = CASE WHEN p.win_2 THEN CASE WHEN coalesce(s.n_2, s.row_node) <> p.origin AND coalesce(s.h_2, s.row_hlc) > 0 THEN CASE WHEN coalesce(s.n_2, s.row_node) <> p.origin AND coalesce(s.h_2, s.row_hlc) > 0 AND (s.v_2 IS NULL OR cardinality(s.v_2) = 2 AND s.v_2[1] IN (coalesce(s.n_2, s.row_node), p.origin)) THEN ARRAY[coalesce(s.n_2, s.row_node)::int8, greatest(coalesce(s.h_2, s.row_hlc), CASE WHEN s.v_2[1] = coalesce(s.n_2, s.row_node) THEN s.v_2[2] END)] ELSE crdt_state.vector_add(s.v_2, coalesce(s.n_2, s.row_node), coalesce(s.h_2, s.row_hlc), p.origin) END ELSE s.v_2 END WHEN p.a_2 THEN CASE WHEN p.origin <> coalesce(s.n_2, s.row_node) AND p.h_2 > 0 AND (s.v_2 IS NULL OR cardinality(s.v_2) = 2 AND s.v_2[1] IN (p.origin, coalesce(s.n_2, s.row_node))) THEN ARRAY[p.origin::int8, greatest(p.h_2, CASE WHEN s.v_2[1] = p.origin THEN s.v_2[2] END)] ELSE crdt_state.vector_add(s.v_2, p.origin, p.h_2, coalesce(s.n_2, s.row_node)) END ELSE s.v_2 END
    FROM (SELECT p.act, p.present, p.alive, p.a_2, p.win_2, p.origin, p.live_hlc, p.live_node, p.s_ctid, p.t_xmin, p.h_2, p.new_image FROM p WHERE p.s_ctid IS NOT NULL AND (SELECT clean AND known > 0 FROM go) OFFSET 0) AS p WHERE s.ctid = p.s_ctid
), st_ins AS (
    INSERT INTO crdt_state.row_1 (k_1, live_node, live_hlc, row_xmin, image, row_hlc, row_node, n_2, h_2)
    SELECT p.k_1,
      p.live_node::int2,
      p.live_hlc,
      CASE WHEN p.act IN ('U', 'I', 'X') THEN pg_current_xact_id()::xid WHEN p.alive AND p.present THEN p.t_xmin END,
      p.new_image,
      0,
      0::int2,
      CASE WHEN p.win_2 THEN CASE WHEN NOT (p.h_2 = 0 AND p.origin = 0) THEN p.origin::int2 END WHEN NOT (0 = 0 AND 0 = 0) THEN 0::int2 END,
      CASE WHEN p.win_2 THEN CASE WHEN NOT (p.h_2 = 0 AND p.origin = 0) THEN p.h_2 END WHEN NOT (0 = 0 AND 0 = 0) THEN 0 END
    FROM p WHERE p.s_ctid IS NULL AND p.act <> 'M' AND (SELECT clean AND unknown > 0 FROM go)
), conflicts AS (
    INSERT INTO crdt_state.conflict (id, table_id, row_key, column_name, rule, kind, winner_node, winner_hlc, winner_value, winner_vector, loser_node, loser_hlc, loser_value, loser_vector)
    SELECT (SELECT (lpad(to_hex(greatest(c.hlc, c.here_hlc) >> 16), 12, '0') || '7' || substr(d.md5, 1, 3) || '8' || substr(d.md5, 4, 15))::uuid FROM (SELECT md5(concat_ws(E'\x01', 'public.profile', jsonb_build_object('id', p.k_1::text)::text, c.name, CASE WHEN c.name IS NULL THEN 'row' ELSE c.kind END, coalesce(NULL, ''), least(c.hlc || '.' || p.origin, c.here_hlc || '.' || c.here_node), greatest(c.hlc || '.' || p.origin, c.here_hlc || '.' || c.here_node)))) AS d(md5)), 1, jsonb_build_object('id', p.k_1::text),
      c.name, c.rule, c.kind,
      CASE WHEN c.wins THEN p.origin ELSE c.here_node END,
      CASE WHEN c.wins THEN c.hlc ELSE c.here_hlc END,
      CASE WHEN c.wins THEN c.value ELSE c.here_value END,
      CASE WHEN c.wins THEN crdt_state.seen_by(p.origin, c.hlc, ARRAY(SELECT unnest(($2::int8[])[p.member:p.member]))) ELSE array_cat(ARRAY[c.here_node::int8, c.here_hlc], c.here_vector) END,
      CASE WHEN c.wins THEN c.here_node ELSE p.origin END,
      CASE WHEN c.wins THEN c.here_hlc ELSE c.hlc END,
      CASE WHEN c.wins THEN c.here_value ELSE c.value END,
      CASE WHEN c.wins THEN array_cat(ARRAY[c.here_node::int8, c.here_hlc], c.here_vector) ELSE crdt_state.seen_by(p.origin, c.hlc, ARRAY(SELECT unnest(($2::int8[])[p.member:p.member]))) END
    FROM p LEFT JOIN crdt_state.row_1 AS s ON s.ctid = p.s_ctid
    LEFT JOIN "public"."profile" AS t ON t.ctid = p.t_ctid,
    LATERAL (VALUES ('name', 'lww_register', 'overwrite', (p.a_2 AND NOT (coalesce(s.n_2, s.row_node, 0::int2) = p.origin OR coalesce(s.h_2, s.row_hlc, 0) <= coalesce(($2::int8[])[p.member][coalesce(s.n_2, s.row_node, 0::int2)], 0))), p.win_2, p.h_2, p.val_2::text, coalesce(s.h_2, s.row_hlc, 0), coalesce(s.n_2, s.row_node, 0::int2), CASE WHEN p.present THEN t."name"::text ELSE s.image ->> 'name' END, s.v_2),
      (NULL, 'row=lww', CASE WHEN (s.live_hlc, s.live_node) > (p.hlc, p.origin) THEN 'lost_delete' ELSE 'overwrite' END, p.conf_row AND p.op = 'D', NOT (s.live_hlc, s.live_node) > (p.hlc, p.origin), p.hlc, 'deleted', s.live_hlc, s.live_node, 'written', NULL::int8[]),
      (NULL, 'row=lww', CASE WHEN (p.hlc, p.origin) > (s.dead_hlc, s.dead_node) AND p.alive AND NOT p.present THEN 'revived' WHEN (p.hlc, p.origin) > (s.dead_hlc, s.dead_node) THEN 'lost_delete' ELSE 'overwrite' END, p.conf_row AND p.op <> 'D', (p.hlc, p.origin) > (s.dead_hlc, s.dead_node), p.hlc, 'written', s.dead_hlc, s.dead_node, 'deleted', NULL::int8[]))
      AS c(name, rule, kind, conflict, wins, hlc, value, here_hlc, here_node, here_value, here_vector)
    WHERE p.concurrent AND c.conflict AND c.value IS DISTINCT FROM c.here_value AND (SELECT clean AND concurrent > 0 FROM go)
    ON CONFLICT (id) DO NOTHING RETURNING 1
), missing AS (
    INSERT INTO crdt_state.quarantine (origin, from_hlc, to_hlc, table_name, row_key, change, sqlstate, reason)
    SELECT p.origin, ($16::int8[])[p.member], ($17::int8[])[p.member], 'public.profile', jsonb_build_object('id', p.k_1::text), jsonb_build_object('name', p.val_2::text), '02000', 'the row is not in this database and left no tombstone; copy it, then repeat the change'
    FROM p WHERE p.act = 'M' AND p.op <> 'T' AND (SELECT clean AND absent > 0 FROM go) RETURNING 1
)
SELECT (SELECT count(*) FROM del) AS del, (SELECT count(*) FROM upd) AS upd, (SELECT count(*) FROM ins) AS ins, (SELECT count(*) FROM conflicts) AS conflicts, (SELECT count(*) FROM missing) AS missing,
  staged, planned_del, planned_upd, planned_ins, vacant, dirty, dirty_seen
FROM go
