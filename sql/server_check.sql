-- What the server is like, for a sidecar (sidecar/postgres/server_check.py).

-- name: read_server
-- One row. Counts leave out this database's own sidecar slot; sizes are in MB, -1 means no limit; times in ms.
SELECT current_setting('server_version_num')::int AS version_number,
       current_setting('server_version') AS version,
       pg_is_in_recovery() AS in_recovery,
       current_setting('wal_level') AS wal_level,
       current_setting('max_replication_slots')::int AS slots_max,
       (SELECT count(*)::int FROM pg_replication_slots
        WHERE NOT (slot_name LIKE 'sidecar\_%' AND database IS NOT DISTINCT FROM current_database())) AS slots_used,
       current_setting('max_wal_senders')::int AS senders_max,
       (SELECT count(*)::int FROM pg_stat_replication AS s
        WHERE s.pid NOT IN (SELECT p.active_pid FROM pg_replication_slots AS p
                            WHERE p.active_pid IS NOT NULL AND p.slot_name LIKE 'sidecar\_%'
                              AND p.database IS NOT DISTINCT FROM current_database())) AS senders_used,
       (SELECT setting::int8 FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS slot_wal_keep_mb,
       (SELECT setting::int8 FROM pg_settings WHERE name = 'wal_sender_timeout') AS sender_timeout_ms,
       coalesce((SELECT setting::int8 FROM pg_settings WHERE name = 'idle_replication_slot_timeout'), 0) AS idle_slot_timeout,
       pg_encoding_to_char(d.encoding)::text AS encoding,
       current_database()::text AS database,
       r.rolname::text AS role,
       r.rolsuper AS is_superuser,
       r.rolreplication OR r.rolsuper OR coalesce(
           (SELECT bool_or(pg_has_role(m.oid, 'MEMBER')) FROM pg_roles AS m WHERE m.rolname = 'rds_replication'), false)
           AS may_replicate,
       has_database_privilege(current_database(), 'CREATE') AS may_create,
       coalesce((SELECT array_agg(n.nspname::text ORDER BY n.nspname) FROM pg_namespace AS n
                 WHERE n.nspname IN ('crdt', 'crdt_state') AND NOT pg_has_role(n.nspowner, 'USAGE')), '{}') AS foreign_schemas,
       has_function_privilege('pg_replication_origin_session_setup(text)', 'EXECUTE') AS may_use_origins
FROM pg_database AS d, pg_roles AS r
WHERE d.datname = current_database() AND r.rolname = current_user

-- name: try_replica_role
-- Fails where the setting is reserved; run in a savepoint that is rolled back.
SET LOCAL session_replication_role = replica
