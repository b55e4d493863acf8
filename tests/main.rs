//! The end-to-end tests.
mod sandbox;
