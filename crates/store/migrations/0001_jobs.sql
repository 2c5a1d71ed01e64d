-- What is known of the database itself.
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

-- One row a job, from its acceptance until it is forgotten. Times are milliseconds since 1970.
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    queue TEXT NOT NULL,
    kind TEXT NOT NULL,
    -- delayed, ready, running, done, dead, cancelled
    state TEXT NOT NULL,
    priority BIGINT NOT NULL,
    payload TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    -- Not before this moment; among jobs of one priority the earlier goes first.
    run_at_ms BIGINT NOT NULL,
    started_ms BIGINT,
    ended_ms BIGINT,
    timeout_ms BIGINT NOT NULL,
    -- Tries that failed, and how many may.
    failures BIGINT NOT NULL,
    failures_max BIGINT NOT NULL,
    -- Times that its worker was lost, since it last made headway.
    losses BIGINT NOT NULL,
    backoff_ms BIGINT NOT NULL,
    backoff_max_ms BIGINT NOT NULL,
    -- The fence: each claim raises it, and whoever holds an older one can write nothing.
    epoch BIGINT NOT NULL,
    worker TEXT,
    lease_until_ms BIGINT,
    cancel_ms BIGINT,
    progress TEXT,
    -- The name of the blob that says how far it is.
    checkpoint TEXT,
    result TEXT,
    error TEXT,
    device_us BIGINT NOT NULL,
    tokens BIGINT NOT NULL
);

CREATE INDEX jobs_ready ON jobs (queue, priority DESC, run_at_ms, id) WHERE state = 'ready';
CREATE INDEX jobs_delayed ON jobs (run_at_ms) WHERE state = 'delayed';
CREATE INDEX jobs_running ON jobs (queue, lease_until_ms) WHERE state = 'running';
CREATE INDEX jobs_dead ON jobs (queue, id) WHERE state = 'dead';
CREATE INDEX jobs_kind ON jobs (tenant, kind, id);
CREATE INDEX jobs_ended ON jobs (ended_ms) WHERE state IN ('done', 'cancelled');

-- What several servers have to agree on about a queue.
CREATE TABLE queues (
    name TEXT PRIMARY KEY,
    -- 1: nothing of it starts.
    is_drained BIGINT NOT NULL,
    -- A token bucket: starts that are left as of a moment.
    starts DOUBLE PRECISION NOT NULL,
    refilled_ms BIGINT NOT NULL
);

-- Keys by which a client that repeats itself gets its first job again.
CREATE TABLE job_keys (
    tenant TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    -- SHA-256 of the request that came with it.
    request_hash TEXT NOT NULL,
    job TEXT NOT NULL,
    PRIMARY KEY (tenant, idempotency_key)
);
CREATE INDEX job_keys_job ON job_keys (job);

-- What a job did, written in the transaction that did it: done again, it counts once.
CREATE TABLE job_effects (
    job TEXT NOT NULL,
    effect TEXT NOT NULL,
    made_ms BIGINT NOT NULL,
    PRIMARY KEY (job, effect)
);

-- When each schedule is next due.
CREATE TABLE schedules (
    name TEXT PRIMARY KEY,
    -- What it was when `next_ms` was computed: another one begins anew.
    cron TEXT NOT NULL,
    timezone TEXT NOT NULL,
    next_ms BIGINT NOT NULL
);
