-- Files that clients uploaded, or that jobs made for them. Their bytes are blobs.
CREATE TABLE files (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    purpose TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    blob TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT
);
CREATE INDEX files_expiring ON files (expires_ms) WHERE expires_ms IS NOT NULL;
