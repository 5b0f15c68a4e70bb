-- Merging whole states of another node, and joining a cluster by them.

-- joining: the node that a join copies from, while it is not finished. What is here by then is neither this node's nor the
-- other's past, so nothing may be streamed before the join was brought to its end.
-- joining_anew: the others have changes of this node that were made in another database.
ALTER TABLE crdt_state.node ADD COLUMN joining text, ADD COLUMN joining_anew boolean NOT NULL DEFAULT false;

-- The further entries {node,hlc,...} of a version vector that two vectors and their winners make together, without those of
-- the winner of both.
CREATE FUNCTION crdt_state.vectors_join(
    a int8[], a_node int8, a_hlc int8, b int8[], b_node int8, b_hlc int8, winner int8
) RETURNS int8[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    IF a IS NULL AND b IS NULL AND (a_node = b_node OR a_hlc = 0 AND b_hlc = 0) THEN
        RETURN NULL;
    END IF;
    RETURN (
        SELECT array_agg(p.e ORDER BY s.n, p.o)
        FROM (
            SELECT v.n, max(v.h) AS h
            FROM (
                SELECT a[i] AS n, a[i + 1] AS h FROM generate_series(1, coalesce(array_length(a, 1), 0), 2) AS i
                UNION ALL
                SELECT b[i], b[i + 1] FROM generate_series(1, coalesce(array_length(b, 1), 0), 2) AS i
                UNION ALL VALUES (a_node, a_hlc), (b_node, b_hlc)
            ) AS v (n, h)
            WHERE v.n IS DISTINCT FROM winner AND v.h > 0
            GROUP BY v.n
        ) AS s, LATERAL (VALUES (1, s.n), (2, s.h)) AS p (o, e)
    );
END
$$;

-- Two whole sets of dots {node,hlc,...}: a dot that one side lacks was removed if that side's clock covers it, and is new
-- otherwise.
CREATE FUNCTION crdt_state.dot_pairs_join(a int8[], a_clock int8[], b int8[], b_clock int8[]) RETURNS int8[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    IF a = b THEN
        RETURN a;
    END IF;
    RETURN coalesce((
        WITH x AS (SELECT a[i] AS n, a[i + 1] AS h FROM generate_series(1, coalesce(array_length(a, 1), 0), 2) AS i),
             y AS (SELECT b[i] AS n, b[i + 1] AS h FROM generate_series(1, coalesce(array_length(b, 1), 0), 2) AS i)
        SELECT array_agg(p.e ORDER BY s.n, p.o)
        FROM (
            SELECT n, h FROM x WHERE EXISTS (SELECT FROM y WHERE (y.n, y.h) = (x.n, x.h)) OR h > coalesce(b_clock[n], 0)
            UNION
            SELECT n, h FROM y WHERE EXISTS (SELECT FROM x WHERE (x.n, x.h) = (y.n, y.h)) OR h > coalesce(a_clock[n], 0)
        ) AS s, LATERAL (VALUES (1, s.n), (2, s.h)) AS p (o, e)
    ), '{}');
END
$$;

-- The sums of a counter by node: {"<node>": [increased, decreased, seen, seen, base, base]}.
CREATE FUNCTION crdt_state.sums_join(a jsonb, b jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    IF a IS NULL OR b IS NULL OR a = b THEN
        RETURN coalesce(a, b);
    END IF;
    RETURN (
        SELECT jsonb_object_agg(coalesce(x.key, y.key), jsonb_build_array(
            greatest((x.value -> 0)::numeric, (y.value -> 0)::numeric),
            greatest((x.value -> 1)::numeric, (y.value -> 1)::numeric),
            greatest((x.value -> 2)::numeric, (y.value -> 2)::numeric),
            greatest((x.value -> 3)::numeric, (y.value -> 3)::numeric),
            greatest((x.value -> 4)::numeric, (y.value -> 4)::numeric),
            greatest((x.value -> 5)::numeric, (y.value -> 5)::numeric)))
        FROM jsonb_each(a) AS x FULL JOIN jsonb_each(b) AS y ON y.key = x.key
    );
END
$$;

CREATE FUNCTION crdt_state.sums_value(sums jsonb) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    RETURN coalesce((
        SELECT sum((e.value -> 0)::numeric - (e.value -> 4)::numeric - (e.value -> 1)::numeric + (e.value -> 5)::numeric)
        FROM jsonb_each(sums) AS e
    ), 0);
END
$$;
