//! placeholder
pub mod context;
pub mod dockerfile;
pub mod export;
pub mod graph;
pub mod sandbox;
pub mod solve;
