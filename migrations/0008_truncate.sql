-- Tables whose rows of before the attachment were deleted by a TRUNCATE, here or on another node; the latest one of each
-- node. What those rows held in counters, and in sets and maps with stamps, counts nowhere any more.
CREATE TABLE crdt_state.truncation (
    table_id int4 NOT NULL,
    node     int2 NOT NULL,
    hlc      int8 NOT NULL,
    PRIMARY KEY (table_id, node)
);

-- A stamp set or map without what it holds of genesis.
CREATE FUNCTION crdt_state.stamps_written(state jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    RETURN coalesce((SELECT jsonb_object_agg(e.key, e.value) FROM jsonb_each(state) AS e WHERE (e.value -> 0)::int8 > 0), '{}');
END
$$;
