//! A database of the seed's.

/// The ecosystem's tables as the seed's migrations make them.
pub const SEED_SCHEMA: &str = "
CREATE TABLE sandboxes (id INTEGER PRIMARY KEY, name TEXT NOT NULL, config_file TEXT NOT NULL,
    config_last_modified DATETIME NOT NULL, status TEXT NOT NULL, supervisor_pid INTEGER NOT NULL,
    microvm_pid INTEGER NOT NULL, rootfs_paths TEXT NOT NULL, group_id INTEGER, group_ip TEXT,
    created_at DATETIME DEFAULT CURRENT_TIMESTAMP, modified_at DATETIME DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE groups (id INTEGER PRIMARY KEY, name TEXT NOT NULL, subnet TEXT NOT NULL,
    reach TEXT NOT NULL, full_json TEXT, created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
    modified_at DATETIME DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE sandbox_metrics (id INTEGER PRIMARY KEY, sandbox_id INTEGER NOT NULL,
    timestamp DATETIME DEFAULT CURRENT_TIMESTAMP, cpu_usage_percent REAL,
    memory_usage_bytes INTEGER, disk_usage_bytes INTEGER);
";
