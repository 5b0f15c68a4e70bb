-- Session guarantees and tunable W and R: crdt.token, crdt.wait_for, crdt.sync, crdt.barrier, and what the sidecar and the
-- sessions that wait tell each other.
--
-- A session that waits is inside its transaction, so nothing that it writes or notifies is seen by anybody. Advisory locks
-- are: it holds one in share mode for as long as it waits, and crdt_state.await_waiters(), in a session of the sidecar,
-- finds that it cannot have the same lock alone. Locks vanish with the session, work in read-only transactions and cost
-- nothing while nobody waits. The sidecar answers through the two unlogged tables below, emptied at its start.

-- The end of this node's own last change set stands in its clock entry, as that of every other node does: a token names
-- ends of change sets. hlc also rises with heartbeats, and another node may never hear of such a point.
UPDATE crdt_state.clock AS c
SET change_hlc = greatest(c.change_hlc, p.dropped_hlc, coalesce((SELECT max(j.to_hlc) FROM crdt_state.journal AS j), 0))
FROM crdt_state.position AS p, crdt_state.node AS n WHERE c.node = n.id;

-- captured: everything committed before it is in the journal (position.lsn rises with change sets and heartbeats only).
-- asked: the peers were asked for their clocks after this position of the log.
CREATE UNLOGGED TABLE crdt_state.wait_board (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    captured  pg_lsn NOT NULL DEFAULT '0/0',
    asked     pg_lsn NOT NULL DEFAULT '0/0'
) WITH (fillfactor = 50);

-- What each peer had when it was asked, as a token; asked as above.
CREATE UNLOGGED TABLE crdt_state.barrier_answer (
    node  int2 PRIMARY KEY,
    asked pg_lsn NOT NULL,
    token text NOT NULL
) WITH (fillfactor = 50);

-- The second key of the advisory locks; the first spells "crdt". What a session waits for: that its position of the log is
-- captured, that peers acknowledge, that the peers are asked.
CREATE FUNCTION crdt_state.wait_key(reason text) RETURNS int4
LANGUAGE sql IMMUTABLE
AS $$ SELECT CASE reason WHEN 'capture' THEN 2 WHEN 'acknowledgement' THEN 3 WHEN 'barrier' THEN 4 END $$;

-- For the sidecar: which reasons somebody waits for, as soon as there is one that is not in "known", else after the seconds.
-- A look every "pause" seconds takes some microseconds, and the wakeup that goes with it up to a hundred.
CREATE FUNCTION crdt_state.await_waiters(known text[], seconds float8, pause float8) RETURNS text[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    ends    constant timestamptz := clock_timestamp() + seconds * interval '1 second';
    reasons constant text[] := '{capture,acknowledgement,barrier}';
    held    text[];
BEGIN
    LOOP
        held := '{}';
        FOR i IN 1 .. 3 LOOP
            IF pg_try_advisory_lock(1668441204, i + 1) THEN
                PERFORM pg_advisory_unlock(1668441204, i + 1);
            ELSE
                held := held || reasons[i];
            END IF;
        END LOOP;
        IF NOT held <@ known OR clock_timestamp() >= ends THEN
            RETURN held;
        END IF;
        PERFORM pg_sleep(pause);
    END LOOP;
END
$function$;

-- The end of the last record before an insert position, which stands behind the next page's header when that record ends
-- with its page: capture does not reach such a position before more is written.
CREATE FUNCTION crdt_state.log_end() RETURNS pg_lsn
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    lsn    constant pg_lsn := pg_current_wal_insert_lsn();
    place  constant numeric := lsn - '0/0'::pg_lsn;
    page   constant int8 := current_setting('wal_block_size')::int8;
    header constant int8 := CASE WHEN place % pg_size_bytes(current_setting('wal_segment_size')) < page THEN 40 ELSE 24 END;
BEGIN
    RETURN CASE WHEN place % page = header THEN lsn - header::numeric ELSE lsn END;
END
$function$;

-- Pauses of a session that waits: short at first, as most waits are; no more than 10 ms, as a hundred may wait at a time.
CREATE FUNCTION crdt_state.wait_pause(tries int4) RETURNS void
LANGUAGE sql VOLATILE
AS $$ SELECT pg_catalog.pg_sleep(least(0.001 * tries, 0.01)) $$;

-- When a wait ends. Refuses what cannot work: every look must see what was committed since the one before.
CREATE FUNCTION crdt_state.wait_end(timeout interval, what text) RETURNS timestamptz
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    IF timeout IS NULL THEN
        RAISE EXCEPTION '%: the timeout is NULL', what
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Give an interval such as ''2 seconds''.';
    ELSIF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION '% cannot wait in a % transaction: it would never see what comes meanwhile', what,
                upper(current_setting('transaction_isolation'))
            USING ERRCODE = 'invalid_transaction_state',
                  HINT = 'Call it before BEGIN, or use READ COMMITTED.';
    ELSIF NOT EXISTS (SELECT FROM crdt_state.node) THEN
        RAISE EXCEPTION '%: this database is not attached to a node', what
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Run sidecar init and sidecar run.';
    END IF;
    RETURN clock_timestamp() + timeout;
END
$function$;

-- A token or an acknowledgement speaks of what is committed. The caller's own open transaction is not.
CREATE FUNCTION crdt_state.refuse_own_writes(what text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    IF pg_current_xact_id_if_assigned() IS NOT NULL THEN
        RAISE EXCEPTION '% does not cover what its own transaction has written', what
            USING ERRCODE = 'active_sql_transaction', HINT = 'COMMIT first, then call it.';
    END IF;
END
$function$;

-- Waits until everything that was committed before the call is captured; false when that took too long.
CREATE FUNCTION crdt_state.await_capture(ends timestamptz) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    wanted constant pg_lsn := crdt_state.log_end();
    tries  int4 := 0;
    done   boolean := coalesce((SELECT p.lsn >= wanted FROM crdt_state.position AS p), false);
BEGIN
    IF done THEN
        RETURN true;
    END IF;
    PERFORM pg_advisory_lock_shared(1668441204, crdt_state.wait_key('capture'));
    BEGIN
        LOOP
            done := coalesce((SELECT p.lsn >= wanted FROM crdt_state.position AS p), false)
                    OR coalesce((SELECT b.captured >= wanted FROM crdt_state.wait_board AS b), false);
            EXIT WHEN done OR clock_timestamp() >= ends;
            tries := tries + 1;
            PERFORM crdt_state.wait_pause(tries);
        END LOOP;
    EXCEPTION WHEN OTHERS OR query_canceled OR assert_failure THEN
        PERFORM pg_advisory_unlock_shared(1668441204, crdt_state.wait_key('capture'));
        RAISE;
    END;
    PERFORM pg_advisory_unlock_shared(1668441204, crdt_state.wait_key('capture'));
    RETURN done;
END
$function$;

-- Tokens: "v1", then for each node ".<id>-<hlc in hexadecimal>". docs/protocol.md, section 8.
CREATE FUNCTION crdt_state.present_token() RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT 'v1' || coalesce(pg_catalog.string_agg('.' || c.node || '-' || pg_catalog.to_hex(c.change_hlc), '' ORDER BY c.node), '')
    FROM crdt_state.clock AS c WHERE c.change_hlc > 0
$$;

-- {node,hlc,node,hlc,...} of a token; an error for one that is malformed.
CREATE FUNCTION crdt_state.read_token(token text) RETURNS int8[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    pair    text;
    id      int4;
    hlc     int8;
    seen    int4[] := '{}';
    numbers int8[] := '{}';
BEGIN
    -- 1023 nodes of at most 22 characters each.
    IF token IS NULL OR length(token) > 22600 OR token !~ '^v1(\.[1-9][0-9]{0,3}-[0-9a-f]{1,16})*$' THEN
        RAISE EXCEPTION '% is not a token', coalesce(quote_literal(left(token, 60)), 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Pass on what crdt.token() returned, unchanged.';
    END IF;
    FOREACH pair IN ARRAY (string_to_array(token, '.'))[2:] LOOP
        id := split_part(pair, '-', 1)::int4;
        hlc := ('x' || lpad(split_part(pair, '-', 2), 16, '0'))::bit(64)::int8;
        IF id > 1023 OR hlc < 0 OR id = ANY (seen) THEN
            RAISE EXCEPTION '% is not a token: % cannot stand there', quote_literal(left(token, 60)), quote_literal(pair)
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Pass on what crdt.token() returned, unchanged.';
        END IF;
        seen := seen || id;
        numbers := numbers || id::int8 || hlc;
    END LOOP;
    RETURN numbers;
END
$function$;

-- An error for a token that names a node which this one has never heard of: it would wait in vain. A new node is known as
-- soon as it is linked.
CREATE FUNCTION crdt_state.check_known(numbers int8[]) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    FOR i IN 1 .. cardinality(numbers) BY 2 LOOP
        IF NOT EXISTS (SELECT FROM crdt_state.named_node AS n WHERE n.id = numbers[i])
           AND NOT EXISTS (SELECT FROM crdt_state.clock AS c WHERE c.node = numbers[i]) THEN
            RAISE EXCEPTION 'the token speaks of node %, which is not known here', numbers[i]
                USING ERRCODE = 'undefined_object',
                      HINT = 'Is it from a node of this cluster? SELECT * FROM crdt.nodes shows who is known.';
        END IF;
    END LOOP;
END
$function$;

-- Whether everything that the numbers of a token name is merged here.
CREATE FUNCTION crdt_state.covers(numbers int8[]) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    RETURN NOT EXISTS (
        SELECT FROM generate_series(1, cardinality(numbers), 2) AS i
        WHERE numbers[i + 1] > coalesce((SELECT c.hlc FROM crdt_state.clock AS c WHERE c.node = numbers[i]), 0)
    );
END
$function$;

-- How many peers a wait asks for; an error for more than there are.
CREATE FUNCTION crdt_state.check_peers(nodes int4, what text) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    known constant int4 := (SELECT count(*) FROM crdt_state.peer);
BEGIN
    IF nodes IS NULL OR nodes < 0 OR nodes > known THEN
        RAISE EXCEPTION '%: % peers were asked for, this node knows %', what, coalesce(nodes::text, 'NULL'), known
            USING ERRCODE = 'invalid_parameter_value', HINT = 'SELECT name FROM crdt.nodes WHERE NOT is_local lists them.';
    END IF;
END
$function$;

-- crdt.token(): everything that this database had committed or merged when it was called. Call it after COMMIT, pass the text
-- to whoever reads elsewhere. Waits until the sidecar has captured the commits, some 20 ms.
CREATE FUNCTION crdt.token(timeout interval DEFAULT '5 seconds') RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    ends constant timestamptz := crdt_state.wait_end(timeout, 'crdt.token');
BEGIN
    PERFORM crdt_state.refuse_own_writes('crdt.token');
    IF NOT crdt_state.await_capture(ends) THEN
        RAISE EXCEPTION 'the sidecar has not captured what was committed here within %', timeout
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Is it running? sidecar status shows how far it is behind.';
    END IF;
    RETURN crdt_state.present_token();
END
$function$;

-- crdt.wait_for(token): true as soon as everything that the token names is merged here, false when that took too long. The
-- next statement sees it; call it as a statement of its own.
CREATE FUNCTION crdt.wait_for(token text, timeout interval DEFAULT '5 seconds') RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    ends   constant timestamptz := crdt_state.wait_end(timeout, 'crdt.wait_for');
    wanted constant int8[] := crdt_state.read_token(token);
    check_at timestamptz := least(ends, clock_timestamp() + interval '2 seconds');
    tries  int4 := 0;
BEGIN
    LOOP
        IF crdt_state.covers(wanted) THEN
            RETURN true;
        ELSIF clock_timestamp() >= check_at THEN
            PERFORM crdt_state.check_known(wanted);
            check_at := ends;
            IF clock_timestamp() >= ends THEN
                RETURN false;
            END IF;
        END IF;
        tries := tries + 1;
        PERFORM crdt_state.wait_pause(tries);
    END LOOP;
END
$function$;

-- crdt.sync(nodes): waits until so many peers have durably merged everything that this database had committed before the
-- call. One row: whether there were enough in time, who has it, who has not.
CREATE FUNCTION crdt.sync(nodes int4, timeout interval DEFAULT '5 seconds',
                          OUT complete boolean, OUT reached text[], OUT missing text[])
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    ends     constant timestamptz := crdt_state.wait_end(timeout, 'crdt.sync');
    captured boolean;
    wanted   int8;
    tries    int4 := 0;
BEGIN
    PERFORM crdt_state.refuse_own_writes('crdt.sync');
    PERFORM crdt_state.check_peers(nodes, 'crdt.sync');
    captured := crdt_state.await_capture(ends);
    wanted := coalesce((SELECT c.change_hlc FROM crdt_state.clock AS c JOIN crdt_state.node AS n ON n.id = c.node), 0);
    PERFORM pg_advisory_lock_shared(1668441204, crdt_state.wait_key('acknowledgement'));
    BEGIN
        LOOP
            SELECT coalesce(array_agg(p.name ORDER BY p.id) FILTER (WHERE captured AND p.acknowledged >= wanted), '{}'),
                   coalesce(array_agg(p.name ORDER BY p.id) FILTER (WHERE NOT (captured AND p.acknowledged >= wanted)), '{}')
            INTO reached, missing FROM crdt_state.peer AS p;
            complete := captured AND cardinality(reached) >= nodes;
            EXIT WHEN complete OR clock_timestamp() >= ends;
            tries := tries + 1;
            PERFORM crdt_state.wait_pause(tries);
        END LOOP;
    EXCEPTION WHEN OTHERS OR query_canceled OR assert_failure THEN
        PERFORM pg_advisory_unlock_shared(1668441204, crdt_state.wait_key('acknowledgement'));
        RAISE;
    END;
    PERFORM pg_advisory_unlock_shared(1668441204, crdt_state.wait_key('acknowledgement'));
END
$function$;

-- Has the peers asked for their clocks, and returns a position of the log: an answer is new when its "asked" is not below
-- it. The message that is written gives each call a position of its own.
CREATE FUNCTION crdt_state.ask_peers(ends timestamptz) RETURNS pg_lsn
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    mark  constant pg_lsn := pg_logical_emit_message(false, 'crdt', 'barrier');
    tries int4 := 0;
BEGIN
    PERFORM pg_advisory_lock_shared(1668441204, crdt_state.wait_key('barrier'));
    BEGIN
        WHILE clock_timestamp() < ends AND coalesce((SELECT b.asked FROM crdt_state.wait_board AS b), '0/0') < mark LOOP
            tries := tries + 1;
            PERFORM crdt_state.wait_pause(tries);
        END LOOP;
    EXCEPTION WHEN OTHERS OR query_canceled OR assert_failure THEN
        PERFORM pg_advisory_unlock_shared(1668441204, crdt_state.wait_key('barrier'));
        RAISE;
    END;
    PERFORM pg_advisory_unlock_shared(1668441204, crdt_state.wait_key('barrier'));
    RETURN mark;
END
$function$;

-- crdt.barrier(nodes): waits until this database has merged everything that so many peers had committed or merged before the
-- call. One row, as crdt.sync. Peers whose answers were lost are asked again.
CREATE FUNCTION crdt.barrier(nodes int4, timeout interval DEFAULT '5 seconds',
                             OUT complete boolean, OUT reached text[], OUT missing text[])
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    again  constant interval := '500 milliseconds';
    ends   constant timestamptz := crdt_state.wait_end(timeout, 'crdt.barrier');
    first  pg_lsn;
    asked  timestamptz;
    tries  int4 := 0;
    heard  int2[] := '{}';
    wanted text[] := '{}';
    passed text[] := '{}';
    fresh  record;
BEGIN
    PERFORM crdt_state.check_peers(nodes, 'crdt.barrier');
    first := crdt_state.ask_peers(ends);
    asked := clock_timestamp();
    LOOP
        -- The first answer of a peer counts: later ones ask for more than this call needs.
        FOR fresh IN SELECT a.node, a.token, p.name FROM crdt_state.barrier_answer AS a JOIN crdt_state.peer AS p ON p.id = a.node
                     WHERE a.asked >= first AND a.node <> ALL (heard) LOOP
            heard := heard || fresh.node;
            wanted := wanted || ARRAY[ARRAY[fresh.name, fresh.token]];
        END LOOP;
        FOR i IN 1 .. coalesce(array_length(wanted, 1), 0) LOOP
            IF wanted[i][1] <> ALL (passed) AND crdt_state.covers(crdt_state.read_token(wanted[i][2])) THEN
                passed := passed || wanted[i][1];
            END IF;
        END LOOP;
        complete := cardinality(passed) >= nodes;
        EXIT WHEN complete OR clock_timestamp() >= ends;
        IF clock_timestamp() >= asked + again THEN
            PERFORM crdt_state.ask_peers(ends);
            asked := clock_timestamp();
        END IF;
        tries := tries + 1;
        PERFORM crdt_state.wait_pause(tries);
    END LOOP;
    SELECT coalesce(array_agg(p.name ORDER BY p.id) FILTER (WHERE p.name = ANY (passed)), '{}'),
           coalesce(array_agg(p.name ORDER BY p.id) FILTER (WHERE p.name <> ALL (passed)), '{}')
    INTO reached, missing FROM crdt_state.peer AS p;
END
$function$;

-- The same with the timeout as text, as drivers send it that know no intervals.
CREATE FUNCTION crdt.token(timeout text) RETURNS text
LANGUAGE sql VOLATILE
AS $$ SELECT crdt.token($1::interval) $$;

CREATE FUNCTION crdt.wait_for(token text, timeout text) RETURNS boolean
LANGUAGE sql VOLATILE
AS $$ SELECT crdt.wait_for($1, $2::interval) $$;

CREATE FUNCTION crdt.sync(nodes int4, timeout text, OUT complete boolean, OUT reached text[], OUT missing text[])
LANGUAGE sql VOLATILE
AS $$ SELECT s.complete, s.reached, s.missing FROM crdt.sync($1, $2::interval) AS s $$;

CREATE FUNCTION crdt.barrier(nodes int4, timeout text, OUT complete boolean, OUT reached text[], OUT missing text[])
LANGUAGE sql VOLATILE
AS $$ SELECT b.complete, b.reached, b.missing FROM crdt.barrier($1, $2::interval) AS b $$;

GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crdt TO PUBLIC;
