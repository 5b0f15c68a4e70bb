-- The surface for applications and people (schema crdt), readable by every role. Everything here can be created again.
-- Views run with their owner's rights: values are shown to those who may SELECT the table they come from.

CREATE SCHEMA IF NOT EXISTS crdt;
GRANT USAGE ON SCHEMA crdt TO PUBLIC;

-- Hybrid logical clock values as people read them: <Unix milliseconds>.<counter>, and the time alone.
CREATE OR REPLACE FUNCTION crdt.hlc_text(hlc int8) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT (hlc >> 16)::text || '.' || (hlc & 65535)::text $$;

CREATE OR REPLACE FUNCTION crdt.hlc_time(hlc int8) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT pg_catalog.to_timestamp((hlc >> 16) / 1000.0::float8) $$;

-- Names of node ids; 0 is whatever a table held when it was attached.
CREATE OR REPLACE VIEW crdt_state.named_node AS
    SELECT 0::int2 AS id, 'genesis'::text AS name
    UNION ALL SELECT n.id, n.name FROM crdt_state.node AS n
    UNION ALL SELECT p.id, p.name FROM crdt_state.peer AS p WHERE p.id NOT IN (SELECT n.id FROM crdt_state.node AS n);

-- SECURITY DEFINER: the public views call it, and functions in a view run with the reader's rights.
CREATE OR REPLACE FUNCTION crdt_state.node_name(id int8) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$ SELECT coalesce((SELECT n.name FROM crdt_state.named_node AS n WHERE n.id = $1), 'node ' || $1) $$;

-- {"us-east": "<ms>.<counter>"} of a winner's dot and the further entries {node,hlc,...}; genesis is seen by everybody.
CREATE OR REPLACE FUNCTION crdt_state.vector_json(node int8, hlc int8, further int8[]) RETURNS jsonb
LANGUAGE sql STABLE
AS $$
    SELECT coalesce(jsonb_object_agg(crdt_state.node_name(e.n), crdt.hlc_text(e.h)), '{}')
    FROM (
        SELECT node AS n, hlc AS h
        UNION ALL
        SELECT further[i], further[i + 1]
        FROM generate_series(1, coalesce(array_length(further, 1), 0), 2) AS i
    ) AS e
    WHERE e.n <> 0
$$;

-- crdt.uuidv7(): time-ordered keys, RFC 9562 section 5.7. The 12 bits after the version are the fraction of the
-- millisecond (section 6.2, method 3); a value that would not be above the backend's last one is the last one plus 1,
-- so the order holds inside one tick and when the clock steps back. An aborted transaction takes its own values back.
DO $do$
BEGIN
    IF current_setting('server_version_num')::int >= 180000 THEN
        CREATE OR REPLACE FUNCTION crdt.uuidv7() RETURNS uuid
        LANGUAGE sql VOLATILE PARALLEL SAFE
        AS $$ SELECT pg_catalog.uuidv7() $$;
    ELSE
        CREATE OR REPLACE FUNCTION crdt.uuidv7() RETURNS uuid
        LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
        AS $$
        DECLARE
            micros int8 := (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::int8;
            tick   int8 := ((micros / 1000) << 12) | ((micros % 1000) * 4096 / 1000);
            last   int8 := nullif(pg_catalog.current_setting('crdt.uuidv7_last', true), '')::int8;
        BEGIN
            IF tick <= last THEN
                tick := last + 1;
            END IF;
            PERFORM pg_catalog.set_config('crdt.uuidv7_last', tick::text, false);
            -- Variant and the random bits are those of a version 4 UUID, from its 20th character on.
            RETURN (pg_catalog.lpad(pg_catalog.to_hex(tick >> 12), 12, '0') || '7'
                    || pg_catalog.lpad(pg_catalog.to_hex(tick & 4095), 3, '0')
                    || pg_catalog.substr(pg_catalog.gen_random_uuid()::text, 20))::uuid;
        END
        $$;
    END IF;
END
$do$;

-- Where the one annotation of a text stands: {first character, length}, NULL without one. As in the sidecar's own reader the
-- marker is a word of its own, in any case, not part of an address or a longer name; quoted parentheses do not count.
CREATE OR REPLACE FUNCTION crdt.annotation_span(words text) RETURNS int4[]
LANGUAGE plpgsql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    marker constant text := '(?:(?<![\w@])@crdt(?![\w@]|[.-]\w))';
    before text := substring(words from '(?i)^(.*?)' || marker);
    rest   text := substr(words, length(before) + length('@crdt') + 1);
    size   int := coalesce(length(substring(rest from '^[ \t]*\(')), 0);
    depth  int := CASE WHEN size > 0 THEN 1 ELSE 0 END;
    quoted boolean := false;
    letter text;
BEGIN
    IF before IS NULL THEN
        RETURN NULL;
    END IF;
    WHILE depth > 0 LOOP
        size := size + 1;
        letter := substr(rest, size, 1);
        IF letter = '' THEN
            RAISE EXCEPTION 'the parenthesis after @crdt is not closed in %', quote_literal(words)
                USING HINT = 'Write @crdt(word).';
        ELSIF letter = '"' THEN
            quoted := NOT quoted;
        ELSIF NOT quoted THEN
            depth := depth + CASE letter WHEN '(' THEN 1 WHEN ')' THEN -1 ELSE 0 END;
        END IF;
    END LOOP;
    IF substr(rest, size + 1) ~* marker THEN
        RAISE EXCEPTION 'more than one @crdt in %', quote_literal(words)
            USING HINT = 'Keep one annotation per column and table.';
    END IF;
    RETURN ARRAY[length(before) + 1, length('@crdt') + size];
END
$function$;

-- The comment with its annotation replaced, added or (words NULL) removed; the human text stays. Empty words: a bare @crdt.
CREATE OR REPLACE FUNCTION crdt.comment_with_annotation(comment text, words text) RETURNS text
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    blank  constant text := E' \t\r\n';
    old    text := coalesce(comment, '');
    place  int4[] := crdt.annotation_span(old);
    whole  int4[];
    inside text := btrim(words, blank);
    new    text;
    before text;
    after  text;
BEGIN
    IF words IS NOT NULL THEN
        whole := crdt.annotation_span(inside);
        IF whole <> ARRAY[1, length(inside)] THEN
            RAISE EXCEPTION '% is more than an annotation', quote_literal(inside)
                USING HINT = 'Give the words alone, for example pn_counter.';
        ELSIF whole IS NOT NULL THEN
            inside := btrim(coalesce(substring(inside from '^@\w+[ \t]*\((.*)\)$'), ''), blank);
        END IF;
        new := CASE WHEN inside = '' THEN '@crdt' ELSE '@crdt(' || inside || ')' END;
        IF crdt.annotation_span(new) IS DISTINCT FROM ARRAY[1, length(new)] THEN
            RAISE EXCEPTION '% cannot stand in @crdt(...)', quote_literal(inside)
                USING HINT = 'Close every parenthesis it opens.';
        END IF;
    END IF;
    IF place IS NULL THEN
        RETURN nullif(CASE WHEN new IS NULL THEN old
                           WHEN btrim(old, blank) = '' THEN new
                           ELSE rtrim(old, blank) || ' ' || new END, '');
    END IF;
    before := left(old, place[1] - 1);
    after := substr(old, place[1] + place[2]);
    IF new IS NOT NULL THEN
        RETURN before || new || after;
    END IF;
    -- Only one of the two spaces around the annotation stays, and none before a full stop that followed it.
    RETURN nullif(btrim(CASE WHEN after ~ '^[[:alnum:]]' THEN before ELSE rtrim(before, blank) END || after, blank), '');
END
$function$;

-- crdt.annotate('posts', 'likes', 'pn_counter'): sets the annotation in the column's comment; column NULL or '': the
-- table's. Annotation NULL removes it, '' gives a bare @crdt. Runs with the caller's rights; returns the new comment.
CREATE OR REPLACE FUNCTION crdt.annotate("table" regclass, "column" name, annotation text) RETURNS text
LANGUAGE plpgsql VOLATILE
AS $function$
DECLARE
    number int2 := 0;
    result text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = "table" AND c.relkind IN ('r', 'p')) THEN
        RAISE EXCEPTION '% is not a table', "table" USING ERRCODE = 'wrong_object_type';
    END IF;
    IF "column" <> '' THEN
        SELECT a.attnum INTO number FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = "table" AND a.attname = "column" AND a.attnum > 0 AND NOT a.attisdropped;
        IF number IS NULL THEN
            RAISE EXCEPTION 'table % has no column %', "table", pg_catalog.quote_ident("column")
                USING ERRCODE = 'undefined_column';
        END IF;
        result := crdt.comment_with_annotation(pg_catalog.col_description("table", number), annotation);
        EXECUTE pg_catalog.format('COMMENT ON COLUMN %s.%I IS %L', "table", "column", result);
    ELSE
        result := crdt.comment_with_annotation(pg_catalog.obj_description("table", 'pg_class'), annotation);
        EXECUTE pg_catalog.format('COMMENT ON TABLE %s IS %L', "table", result);
    END IF;
    RETURN result;
END
$function$;

-- The annotations in force; key: position in the primary key, NULL for other columns.
CREATE OR REPLACE VIEW crdt.columns AS
    SELECT t.schema_name AS schema, t.table_name AS "table", c.column_name AS "column",
           c.crdt || coalesce('(' || c.argument || ')', '') AS annotation,
           c.type_name AS type, c.key_position AS key, t.row_rule, c.attnum
    FROM crdt_state.replicated_table AS t
    JOIN crdt_state.replicated_column AS c USING (table_id)
    WHERE t.detached IS NULL
    ORDER BY t.schema_name, t.table_name, c.attnum;

-- This node and the others. connected, last_seen, acknowledged, clock_offset_ms, last_error: the link; NULL for this node.
CREATE OR REPLACE VIEW crdt.nodes AS
    SELECT i.id, crdt_state.node_name(i.id) AS name, l.id IS NOT NULL AS is_local, p.connected, p.last_seen,
           c.hlc AS clock, crdt.hlc_text(c.hlc) AS clock_shown, p.acknowledged, p.clock_offset_ms, p.last_error
    FROM (SELECT n.id FROM crdt_state.named_node AS n WHERE n.id <> 0
          UNION SELECT k.node FROM crdt_state.clock AS k) AS i
    LEFT JOIN crdt_state.node AS l ON l.id = i.id
    LEFT JOIN crdt_state.peer AS p ON p.id = i.id AND l.id IS NULL
    LEFT JOIN crdt_state.clock AS c ON c.node = i.id
    ORDER BY i.id;

-- behind_ms: how old the newest state of that origin here is. unacknowledged_*: this node's change sets the peer has not
-- made durable yet; unacknowledged_ms is the age of the oldest. Of the local node: what is committed but not captured.
CREATE OR REPLACE VIEW crdt.lag AS
    WITH present AS (SELECT extract(epoch FROM clock_timestamp()) * 1000 AS ms)
    SELECT n.id AS node, n.name, n.is_local, n.clock_shown AS clock,
           greatest(0, present.ms - (n.clock >> 16))::float8 AS behind_ms,
           j.change_sets AS unacknowledged_change_sets,
           CASE WHEN NOT n.is_local THEN greatest(0, coalesce(present.ms - (j.oldest >> 16), 0)) END::float8
               AS unacknowledged_ms,
           j.bytes AS unacknowledged_bytes
    FROM crdt.nodes AS n
    CROSS JOIN present
    LEFT JOIN LATERAL (
        SELECT count(*) FILTER (WHERE q.last) AS change_sets, min(q.to_hlc) AS oldest,
               coalesce(sum(octet_length(q.header) + octet_length(q.body)), 0)::int8 AS bytes
        FROM crdt_state.journal AS q
        WHERE q.to_hlc > coalesce(n.acknowledged, 0)
    ) AS j ON NOT n.is_local;

-- Whether the caller may see values of the table: SELECT on it, or the sidecar's own role.
CREATE OR REPLACE FUNCTION crdt.may_read(relation oid) RETURNS boolean
LANGUAGE sql STABLE
AS $$
    SELECT coalesce(pg_catalog.has_table_privilege(relation, 'SELECT'), false)
        OR (SELECT pg_catalog.pg_has_role(s.nspowner, 'USAGE') FROM pg_catalog.pg_namespace AS s WHERE s.nspname = 'crdt_state')
$$;

-- Each concurrent overwrite, with both values. The same conflict has the same id on every node.
CREATE OR REPLACE VIEW crdt.conflicts AS
    SELECT f.id, f.detected, format('%I.%I', t.schema_name, t.table_name) AS "table", f.row_key AS key,
           f.column_name AS "column", f.rule,
           crdt_state.node_name(f.winner_node) AS winner, crdt.hlc_text(f.winner_hlc) AS winner_dot, f.winner_value,
           crdt_state.node_name(f.loser_node) AS loser, crdt.hlc_text(f.loser_hlc) AS loser_dot, f.loser_value
    FROM crdt_state.conflict AS f
    JOIN crdt_state.replicated_table AS t USING (table_id)
    WHERE crdt.may_read(t.relation_oid);

-- Changes that cannot apply, with the reason.
CREATE OR REPLACE VIEW crdt.quarantine AS
    SELECT q.id, q.detected, crdt_state.node_name(q.origin) AS origin, crdt.hlc_text(q.from_hlc) AS from_dot,
           crdt.hlc_text(q.to_hlc) AS to_dot, q.table_name AS "table", q.row_key AS key, q.change, q.sqlstate, q.reason
    FROM crdt_state.quarantine AS q
    WHERE crdt.may_read((SELECT t.relation_oid FROM crdt_state.replicated_table AS t
                         WHERE t.schema_name || '.' || t.table_name = q.table_name AND t.detached IS NULL));

-- crdt.explain('posts', '17'): who wrote each column of a row and when. key: the text of a single-column key, or a JSON
-- object {"column": "text", ...} for a key of several. One row per column in table order; none when nobody knows the row.
-- A counter has no single writer: contributions shows what each node added and took, true_value the exact sum.
CREATE OR REPLACE FUNCTION crdt.explain("table" regclass, key text)
RETURNS TABLE ("column" name, type text, value text, writer text, written_at timestamptz, dot text,
               version_vector jsonb, contributions jsonb, true_value numeric,
               row_alive boolean, row_inserted text, row_written text, row_deleted text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
    -- Inside a SECURITY DEFINER function current_user is the owner: the caller is the role that was set, or logged in.
    caller   constant name := CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role') END;
    relation record;
    attached record;
    columns  record;
    keys     text[];
    user_row text[];
    state    jsonb;
    sums     jsonb;
BEGIN
    SELECT c.oid, c.relowner, c.relrowsecurity, format('%I.%I', n.nspname, c.relname) AS qualified INTO relation
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = $1;
    IF NOT has_table_privilege(caller, relation.oid, 'SELECT') THEN
        RAISE EXCEPTION 'permission denied for table %', relation.qualified USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF relation.relrowsecurity AND NOT pg_has_role(caller, relation.relowner, 'USAGE')
       AND NOT (SELECT r.rolbypassrls FROM pg_roles AS r WHERE r.rolname = caller) THEN
        RAISE EXCEPTION 'table % has row security, which crdt.explain cannot apply', relation.qualified
            USING ERRCODE = 'insufficient_privilege', HINT = 'Ask the owner of the table.';
    END IF;
    SELECT t.table_id INTO attached FROM crdt_state.replicated_table AS t
    WHERE t.relation_oid = relation.oid AND t.detached IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'table % is not replicated', relation.qualified
            USING ERRCODE = 'undefined_table', HINT = 'Annotate it; crdt.columns lists what is replicated.';
    END IF;
    SELECT array_agg(c.column_name ORDER BY c.key_position) FILTER (WHERE c.key_position IS NOT NULL) AS key_names,
           string_agg(format('t.%I = ($1)[%s]::%s', c.column_name, c.key_position, c.type_name), ' AND ')
               FILTER (WHERE c.key_position IS NOT NULL) AS user_key,
           string_agg(format('t.k_%s = ($1)[%s]::%s', c.attnum, c.key_position, c.type_name), ' AND ')
               FILTER (WHERE c.key_position IS NOT NULL) AS state_key,
           string_agg(format('t.%I::text', c.column_name), ', ' ORDER BY c.attnum) AS texts
    INTO columns
    FROM crdt_state.replicated_column AS c WHERE c.table_id = attached.table_id;
    IF array_length(columns.key_names, 1) = 1 THEN
        keys := ARRAY[$2];
    ELSE
        SELECT array_agg($2::jsonb ->> k.name ORDER BY k.position) INTO keys
        FROM unnest(columns.key_names) WITH ORDINALITY AS k (name, position);
        IF array_position(keys, NULL) IS NOT NULL THEN
            RAISE EXCEPTION 'the key lacks a column' USING ERRCODE = 'invalid_parameter_value',
                HINT = format('Give a JSON object with %s.', array_to_string(columns.key_names, ', '));
        END IF;
    END IF;
    EXECUTE format('SELECT ARRAY[%s] FROM ONLY %s AS t WHERE %s', columns.texts, relation.qualified, columns.user_key)
        INTO user_row USING keys;
    EXECUTE format('SELECT to_jsonb(t) FROM crdt_state.row_%s AS t WHERE %s', attached.table_id, columns.state_key)
        INTO state USING keys;
    IF user_row IS NULL AND state IS NULL THEN
        RETURN;
    END IF;
    IF to_regclass('crdt_state.counter_' || attached.table_id) IS NOT NULL THEN
        EXECUTE format(
            'SELECT jsonb_object_agg(a.attnum, a.nodes) FROM (
                 SELECT t.attnum, jsonb_object_agg(crdt_state.node_name(t.node), jsonb_build_object(
                     ''increased'', t.increased - t.base_increased, ''decreased'', t.decreased - t.base_decreased)) AS nodes
                 FROM crdt_state.counter_%s AS t WHERE %s GROUP BY t.attnum) AS a', attached.table_id, columns.state_key)
            INTO sums USING keys;
    END IF;
    RETURN QUERY
    WITH life AS (
        SELECT coalesce((state ->> 'row_node')::int8, 0) AS row_node, coalesce((state ->> 'row_hlc')::int8, 0) AS row_hlc,
               coalesce((state ->> 'live_node')::int8, 0) AS live_node, coalesce((state ->> 'live_hlc')::int8, 0) AS live_hlc,
               (state ->> 'dead_node')::int8 AS dead_node, (state ->> 'dead_hlc')::int8 AS dead_hlc
    ), listed AS (
        SELECT c.*, row_number() OVER (ORDER BY c.attnum) AS place,
               c.crdt IN ('pn_counter', 'g_counter') AS is_counter,
               coalesce((state ->> ('n_' || c.attnum))::int8, l.row_node) AS node,
               coalesce((state ->> ('h_' || c.attnum))::int8, l.row_hlc) AS hlc,
               (SELECT array_agg(e.v::int8 ORDER BY e.o)
                FROM jsonb_array_elements_text(nullif(state -> ('v_' || c.attnum), 'null')) WITH ORDINALITY AS e (v, o)) AS further
        FROM crdt_state.replicated_column AS c CROSS JOIN life AS l
        WHERE c.table_id = attached.table_id
    )
    SELECT c.column_name, c.type_name, user_row[c.place],
           CASE WHEN NOT c.is_counter THEN crdt_state.node_name(c.node) END,
           CASE WHEN NOT c.is_counter AND c.hlc > 0 THEN crdt.hlc_time(c.hlc) END,
           CASE WHEN NOT c.is_counter THEN crdt.hlc_text(c.hlc) END,
           CASE WHEN NOT c.is_counter THEN crdt_state.vector_json(c.node, c.hlc, c.further) END,
           CASE WHEN c.is_counter THEN coalesce(sums -> c.attnum::text, '{}') END,
           CASE WHEN c.is_counter
                THEN coalesce(user_row[c.place]::numeric, 0) + coalesce((state ->> ('x_' || c.attnum))::numeric, 0) END,
           l.dead_hlc IS NULL OR (l.live_hlc, l.live_node) > (l.dead_hlc, l.dead_node),
           crdt_state.node_name(l.row_node) || ' ' || crdt.hlc_text(l.row_hlc),
           crdt_state.node_name(l.live_node) || ' ' || crdt.hlc_text(l.live_hlc),
           crdt_state.node_name(l.dead_node) || ' ' || crdt.hlc_text(l.dead_hlc)
    FROM listed AS c CROSS JOIN life AS l
    ORDER BY c.place;
END
$function$;

GRANT SELECT ON crdt.columns, crdt.nodes, crdt.lag, crdt.conflicts, crdt.quarantine TO PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crdt TO PUBLIC;
