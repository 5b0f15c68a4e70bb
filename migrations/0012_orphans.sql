-- Rows that name a row which is not there: foreign keys are not checked when merging, because a parent that another node
-- deleted meanwhile must not stop the stream.

-- crdt.orphans('posts'), crdt.orphans(): rows of the table, or of all replicated tables, whose foreign keys point at nothing;
-- at most max_rows of each constraint. key: the row's primary key. points_at: the table, and the values that are not there.
-- Runs with the caller's rights and reads the tables. Constraints that are NOT ENFORCED or of periods are left out.
CREATE FUNCTION crdt.orphans("table" regclass DEFAULT NULL, max_rows int8 DEFAULT 100)
RETURNS TABLE (table_name text, "constraint" name, key jsonb, points_at text, missing jsonb)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET "TimeZone" = 'UTC' SET "DateStyle" = 'ISO, MDY' SET "IntervalStyle" = 'postgres' SET extra_float_digits = '1'
SET bytea_output = 'hex'
AS $function$
#variable_conflict use_column
DECLARE
    r record;
BEGIN
    FOR r IN
        SELECT k.conname, child.name AS child, parent.name AS parent, pairs.present, pairs.equal, pairs.missing, own.key
        FROM pg_constraint AS k
        CROSS JOIN LATERAL (SELECT format('%I.%I', n.nspname, c.relname) AS name
                            FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                            WHERE c.oid = k.conrelid) AS child
        CROSS JOIN LATERAL (SELECT format('%I.%I', n.nspname, c.relname) AS name
                            FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                            WHERE c.oid = k.confrelid) AS parent
        CROSS JOIN LATERAL (
            SELECT string_agg(format('c.%I IS NOT NULL', c.attname), ' AND ' ORDER BY i) AS present,
                   string_agg(format('p.%I OPERATOR(%I.%s) c.%I', p.attname, s.nspname, o.oprname, c.attname), ' AND '
                              ORDER BY i) AS equal,
                   string_agg(format('%L, c.%I', p.attname, c.attname), ', ' ORDER BY i) AS missing
            FROM generate_subscripts(k.conkey, 1) AS i
            JOIN pg_attribute AS c ON c.attrelid = k.conrelid AND c.attnum = k.conkey[i]
            JOIN pg_attribute AS p ON p.attrelid = k.confrelid AND p.attnum = k.confkey[i]
            JOIN pg_operator AS o ON o.oid = k.conpfeqop[i]
            JOIN pg_namespace AS s ON s.oid = o.oprnamespace
        ) AS pairs
        CROSS JOIN LATERAL (
            SELECT string_agg(format('%L, c.%I', a.attname, a.attname), ', ' ORDER BY i) AS key
            FROM pg_index AS x
            CROSS JOIN generate_subscripts(x.indkey, 1) AS i
            JOIN pg_attribute AS a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[i]
            WHERE x.indrelid = k.conrelid AND x.indisprimary
        ) AS own
        WHERE k.contype = 'f' AND k.conparentid = 0
            AND NOT to_jsonb(k) @> '{"conenforced": false}' AND NOT to_jsonb(k) @> '{"conperiod": true}'
            AND CASE WHEN $1 IS NULL
                THEN (SELECT true FROM crdt.columns AS v WHERE format('%I.%I', v.schema, v."table") = child.name LIMIT 1)
                ELSE k.conrelid = $1 END
        ORDER BY child.name, k.conname
    LOOP
        RETURN QUERY EXECUTE format(
            'SELECT %L, %L::name, jsonb_build_object(%s), %L, jsonb_build_object(%s) FROM ONLY %s AS c '
            'WHERE %s AND NOT EXISTS (SELECT FROM %s AS p WHERE %s) LIMIT %s',
            r.child, r.conname, coalesce(r.key, ''), r.parent, r.missing, r.child, r.present, r.parent, r.equal, $2
        );
    END LOOP;
END
$function$;
