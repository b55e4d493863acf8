//! Rows: rules, path, verdict.
