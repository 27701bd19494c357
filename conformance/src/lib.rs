//! Checks that a compute plugin computes what the table of operations says.

mod array;
mod case;
mod cases;
mod forms;
mod primitives;
mod random;
mod reference;
mod report;
mod run;
mod tolerance;

use std::rc::Rc;

use mdt_plugin_api::{Compute, OpKind};

pub use cases::REQUIRED;
pub use report::{Failure, Kind, Report, Subject};

use cases::FURTHER;
use run::Bench;

/// Runs every case on this device.
pub fn check(compute: &Rc<dyn Compute>) -> Report {
    check_some(compute, |_| true)
}

/// Runs the cases of the subjects that `is_wanted`.
pub fn check_some(compute: &Rc<dyn Compute>, is_wanted: impl Fn(&Subject) -> bool) -> Report {
    let bench = Bench { compute: Rc::clone(compute), reference: Rc::default() };
    let mut report = Report::default();
    for definition in OpKind::all() {
        for dtype in REQUIRED.into_iter().chain(FURTHER).filter(|&dtype| definition.types.contains(dtype)) {
            for (kind, case) in cases::calls(definition, dtype) {
                let subject = Subject::new(definition.op, dtype, kind);
                let is_owed = cases::is_required(&case) || run::has(compute, case.op, &case.attributes, dtype);
                if is_wanted(&subject) && is_owed {
                    report.add(subject, bench.compare(&case));
                }
            }
            for (case, index) in cases::out_of_range(definition.op, dtype) {
                let subject = Subject::new(definition.op, dtype, Kind::Indices);
                if is_wanted(&subject) && cases::is_required(&case) {
                    report.add(subject, bench.refuses_index(&case, index));
                }
            }
        }
    }
    report
}

/// Runs every case on this device.
///
/// # Panics
/// A case fails; the message has the report.
pub fn assert_conforms(compute: &Rc<dyn Compute>) {
    let report = check(compute);
    assert!(report.failures.is_empty(), "{report}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Reference;

    #[test]
    fn a_device_that_rounds_what_the_reference_computes_conforms() {
        let device: Rc<dyn Compute> = Rc::new(Reference::device());
        let is_primitive = |subject: &Subject| OpKind(subject.op).definition().is_some_and(|row| row.is_primitive);
        let report = check_some(&device, is_primitive);
        assert!(report.failures.is_empty(), "{report}");
    }
}
