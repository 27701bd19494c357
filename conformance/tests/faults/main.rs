//! The kit finds faults: each is put alone into a device that conforms, and has to be found by a case of its kind.

mod device;
mod list;

use std::rc::Rc;

use mdt_conformance::{Kind, check_some};
use mdt_plugin_api::prelude::*;

use device::{Fault, Faulty};
use list::FAULTS;

fn with(fault: Option<&'static Fault>) -> Rc<dyn Compute> {
    let device = cpu_compute::Cpu::create(cpu_compute::Config::default(), &Setup::default()).expect("a device");
    Rc::new(Faulty { device: Rc::new(device), fault })
}

#[test]
fn each_fault_is_found_by_a_case_of_its_kind() {
    let mut missed = Vec::new();
    for fault in FAULTS {
        let is_tested = |op: u32, kind: Kind| op == fault.op.0 && kind == fault.found_by;
        let report = check_some(&with(Some(fault)), |subject| is_tested(subject.op, subject.kind));
        match report.failures.first() {
            Some(failure) => {
                println!("{}: {} of {} cases, {failure}", fault.name, report.failures.len(), report.cases())
            }
            None => missed.push(format!("{}: none of {} cases of {}", fault.name, report.cases(), fault.op.name())),
        }
    }
    assert!(missed.is_empty(), "faults that no case found:\n{}", missed.join("\n"));
}

#[test]
fn the_same_cases_find_nothing_in_a_device_without_a_fault() {
    let is_tested = |op: u32, kind: Kind| FAULTS.iter().any(|fault| fault.op.0 == op && fault.found_by == kind);
    let report = check_some(&with(None), |subject| is_tested(subject.op, subject.kind));
    assert!(report.failures.is_empty(), "{report}");
}
