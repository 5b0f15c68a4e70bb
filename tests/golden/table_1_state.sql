CREATE TABLE crdt_state.row_1 (k_1 uuid NOT NULL, row_node int2 NOT NULL, row_hlc int8 NOT NULL, live_node int2 NOT NULL, live_hlc int8 NOT NULL, dead_node int2, dead_hlc int8, row_xmin xid, image jsonb, n_2 int2, h_2 int8, v_2 int8[], n_3 int2, h_3 int8, v_3 int8[], PRIMARY KEY (k_1)) WITH (fillfactor = 70);
COMMENT ON TABLE crdt_state.row_1 IS 'row states of public.profile';
