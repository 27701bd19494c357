//! Checks that a compute plugin computes what the table of operations says (`OPERATIONS.md` of `mdt-plugin-api`).
//!
//! An author of a compute plugin adds this crate to the dev-dependencies and writes one test:
//!
//! ```ignore
//! #[test]
//! fn the_device_computes_what_the_table_of_operations_says() {
//!     let device = MyDevice::create(Config::default(), &Setup::default()).unwrap();
//!     mdt_conformance::assert_conforms(&(Rc::new(device) as Rc<dyn Compute>));
//! }
//! ```
//!
//! It fails with a line for each wrong result: the call, the first element that is wrong, and what it should be. [`check_some`]
//! runs a part, [`check`] gives the [`Report`] with the number of cases by operation, element type and kind.
//!
//! [`assert_collectives`] does the same for the communicator of a comm plugin.
//!
//! Results are compared with a reference that computes in f64 from the table's text; compositions are evaluated on it as
//! `mdt-plugin-api` composes them. How far a result may be off is one table, `tolerance.rs`. Gradients are compared with
//! differences of the reference's values, and at special points with stated ones. A device may leave compositions, and `left`
//! and `right`, to the host; it must have every primitive for the types of [`REQUIRED`]. Cases are the same in every run.

mod array;
mod case;
mod cases;
mod collectives;
mod device;
mod forms;
mod gradients;
mod primitives;
mod random;
mod reference;
mod refused;
mod report;
mod run;
mod tolerance;

use std::rc::Rc;

use mdt_plugin_api::{Compute, Dtype, OpKind};

pub use cases::REQUIRED;
pub use collectives::assert_collectives;
pub use report::{Failure, Kind, Report, Subject};

use case::Case;
use cases::FURTHER;
use gradients::Differentiated;
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
            let wanted = |kind| Some(Subject::new(definition.op, dtype, kind)).filter(&is_wanted);
            let is_owed = |case: &Case| {
                let offers = |case: &Case| run::has(compute, case.op, &case.attributes, dtype);
                cases::is_required(case)
                    || cases::element_types(case).into_iter().all(|dtype| has_primitives(compute, dtype))
                        && offers(case)
            };
            for (kind, case) in cases::calls(definition, dtype) {
                if let Some(subject) = wanted(kind).filter(|_| is_owed(&case)) {
                    report.add(subject, bench.compare(&case));
                }
            }
            for (case, index) in cases::out_of_range(definition.op, dtype) {
                if let Some(subject) = wanted(Kind::Indices).filter(|_| is_owed(&case)) {
                    report.add(subject, bench.refuses_index(&case, index));
                }
            }
            if let Some(subject) = wanted(Kind::Refused).filter(|_| REQUIRED.contains(&dtype)) {
                for (what, case) in refused::refused(definition, dtype) {
                    report.add(subject, bench.refuses(what, &case, definition.results));
                }
            }
            if let Some(subject) = wanted(Kind::Gradient) {
                for case in gradients::differentiated(definition, dtype).into_iter().filter(is_owed) {
                    let parameters = gradients::parameters(definition, &case);
                    if let Some(outcome) = bench.compare_with_differences(&case, parameters) {
                        report.add(subject, outcome);
                    }
                }
            }
            if let Some(subject) = wanted(Kind::GradientEdges).filter(|_| dtype.is_float()) {
                let of_this = |of: &Differentiated| of.case.op == definition.op && is_owed(&of.case);
                for of in gradients::stated(dtype).into_iter().filter(of_this) {
                    report.add(subject, bench.compare_gradients(&of));
                }
            }
        }
    }
    for definition in OpKind::all() {
        for case in refused::of_other_types(definition) {
            let dtype = case.arrays().first().copied().flatten().map_or(Dtype::F32, |array| array.dtype);
            let subject = Subject::new(definition.op, dtype, Kind::Refused);
            if is_wanted(&subject) {
                report.add(subject, bench.refuses("another element type", &case, definition.results));
            }
        }
    }
    let subject = Subject { op: 0, dtype: Dtype::F32.0, kind: Kind::Device };
    for (promise, check) in device::CHECKS.iter().filter(|_| is_wanted(&subject)) {
        report.add(subject, check(compute).map_err(|error| format!("{promise}: {error}")));
    }
    report
}

/// Whether a device has every primitive with this element type, so that all else can be composed.
fn has_primitives(compute: &Rc<dyn Compute>, dtype: Dtype) -> bool {
    let primitives =
        OpKind::all().iter().filter(|definition| definition.is_primitive && definition.types.contains(dtype));
    REQUIRED.contains(&dtype) || primitives.into_iter().all(|definition| compute.supports(definition.op, &[], dtype))
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
    fn every_operation_has_cases_with_every_type_and_by_every_differentiable_input() {
        for definition in OpKind::all() {
            let name = definition.name;
            for dtype in REQUIRED.into_iter().filter(|&dtype| definition.types.contains(dtype)) {
                assert!(!cases::calls(definition, dtype).is_empty(), "{name} {dtype} has no values");
                assert!(!refused::refused(definition, dtype).is_empty(), "{name} {dtype} has no refused calls");
                let differentiated = gradients::differentiated(definition, dtype);
                let by: Vec<_> =
                    differentiated.iter().flat_map(|case| gradients::parameters(definition, case)).collect();
                let flows = |&place: &usize| definition.differentiable >> place & 1 == 1;
                for place in (0..definition.most_inputs.min(6)).filter(flows).filter(|_| dtype.is_float()) {
                    assert!(by.contains(&place), "{name} {dtype} has no gradient by input {place}");
                }
            }
        }
    }

    #[test]
    fn a_device_that_rounds_what_the_reference_computes_conforms() {
        let has = |subject: &Subject| {
            let kind = !matches!(subject.kind, Kind::Gradient | Kind::GradientEdges | Kind::Device);
            kind && [Dtype::F32, Dtype::BF16, Dtype::I32, Dtype::U8].contains(&Dtype(subject.dtype))
        };
        let report = check_some(&(Rc::new(Reference::device()) as Rc<dyn Compute>), has);
        assert!(report.failures.is_empty(), "{report}");
    }
}
