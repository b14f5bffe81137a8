CREATE TABLE settings (
    key   TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE devices (
    name         TEXT PRIMARY KEY NOT NULL,
    enrolled_s   INTEGER NOT NULL,
    salt         BLOB NOT NULL,               -- of its broker password
    secret_hash  BLOB NOT NULL,               -- SHA-256 of salt and password
    generation   INTEGER NOT NULL DEFAULT 0,  -- of the newest desired state signed
    desired      BLOB,                        -- that desired state, ready to publish
    session      INTEGER NOT NULL DEFAULT 0,  -- newest session heard of
    online       INTEGER NOT NULL DEFAULT 0,
    seen_s       INTEGER,                     -- last message
    reported     BLOB,                        -- last accepted Reported, postcard
    refusal      TEXT,                        -- last thing the device rejected, JSON; NULL when it has accepted since
    command_next INTEGER NOT NULL DEFAULT 1   -- next command id
) STRICT;

CREATE TABLE images (
    reference   TEXT PRIMARY KEY NOT NULL,
    root        BLOB NOT NULL,                -- digest of the index or manifest
    added_s     INTEGER NOT NULL,
    bytes_total INTEGER NOT NULL              -- all blobs
) STRICT;

CREATE TABLE manifests (                      -- one for each platform of an image
    reference      TEXT NOT NULL REFERENCES images(reference) ON DELETE CASCADE ON UPDATE CASCADE,
    digest         BLOB NOT NULL,
    os             TEXT NOT NULL,
    architecture   TEXT NOT NULL,
    variant        TEXT NOT NULL,             -- empty for none
    manifest_bytes INTEGER NOT NULL,
    total_bytes    INTEGER NOT NULL
) STRICT;
CREATE INDEX manifests_by_reference ON manifests(reference);

CREATE TABLE blobs (
    digest    BLOB NOT NULL,
    reference TEXT NOT NULL REFERENCES images(reference) ON DELETE CASCADE ON UPDATE CASCADE,
    bytes     INTEGER NOT NULL,
    PRIMARY KEY (digest, reference)
) STRICT, WITHOUT ROWID;

CREATE TABLE apps (
    device         TEXT NOT NULL REFERENCES devices(name) ON DELETE CASCADE,
    name           TEXT NOT NULL,
    spec           TEXT NOT NULL,             -- how to run it, JSON
    image          TEXT NOT NULL,             -- reference in the image store
    manifest       BLOB,                      -- NULL until the device's platform is known
    manifest_bytes INTEGER,
    total_bytes    INTEGER,
    running        INTEGER NOT NULL,          -- 0: stopped by the operator, left out of the desired state
    generation     INTEGER NOT NULL,          -- of the desired state that last changed it
    problem        TEXT,                      -- why it cannot be in the desired state
    PRIMARY KEY (device, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE commands (                       -- those that must outlive the controller and are not answered yet
    device  TEXT NOT NULL REFERENCES devices(name) ON DELETE CASCADE,
    id      INTEGER NOT NULL,
    session INTEGER NOT NULL,
    action  BLOB NOT NULL,                    -- CommandAction, postcard
    PRIMARY KEY (device, id)
) STRICT, WITHOUT ROWID;
