//! placeholder
/// Credentials
#[derive(Debug, Clone, Default)]
pub struct Credentials {}
