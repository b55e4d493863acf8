//! An overlay's upper directory → the changes of a layer.
use std::path::Path;

use crate::index::View;
use crate::{ChangeSink, Error};

/// Walks `upper` into `sink`.
pub fn changes<S: ChangeSink>(_upper: &Path, _below: &View, _sink: &mut S) -> Result<(), S::Error>
where
    S::Error: From<Error>,
{
    todo!()
}
