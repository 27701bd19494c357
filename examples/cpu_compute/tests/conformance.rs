//! The plugin does what the table of operations says.

use std::rc::Rc;

use mdt_plugin_api::prelude::*;

#[test]
fn the_device_computes_what_the_table_of_operations_says() {
    let device = cpu_compute::Cpu::create(cpu_compute::Config::default(), &Setup::default());
    mdt_conformance::assert_conforms(&(Rc::new(device.expect("a device")) as Rc<dyn Compute>));
}
