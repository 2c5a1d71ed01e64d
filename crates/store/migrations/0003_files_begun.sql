-- Files whose blobs are being written, or were when a server went away: described by no row of `files` yet.
CREATE TABLE files_begun (
    id TEXT PRIMARY KEY,
    begun_ms BIGINT NOT NULL
);
