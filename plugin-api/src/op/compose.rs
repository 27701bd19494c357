//! Operations that are composed of others.

use std::rc::Rc;

use super::{Attribute, OpKind};
use crate::{Compute, Handle, Result};

/// Computes an operation by others, as its definition says, for a device that does not have it: a composed operation, or one with
/// inputs or attributes that the device does not know (`left` and `right`). Called on the compute thread.
///
/// # Errors
/// Those of the operation; there is no composition of a primitive in its plain form.
pub fn compose(
    _compute: &Rc<dyn Compute>,
    op: OpKind,
    _inputs: &[Handle],
    _attributes: &[Attribute<'_>],
    _results: &mut [Handle],
) -> Result<()> {
    Err(crate::Error::plugin(format!("{} has no composition", op.name())))
}
