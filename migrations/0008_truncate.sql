-- Tables whose rows of before the attachment were deleted by a TRUNCATE, here or on another node; the latest one of each
-- node. What those rows held in counters counts nowhere any more.
CREATE TABLE crdt_state.truncation (
    table_id int4 NOT NULL,
    node     int2 NOT NULL,
    hlc      int8 NOT NULL,
    PRIMARY KEY (table_id, node)
);
