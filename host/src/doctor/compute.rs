//! Check `compute`.

use std::rc::Rc;
use std::time::Instant;

use mdt_plugin_api::{Compute, DeviceInfo, Dtype, HostArray, MemoryInfo, Tensor};
use serde_json::json;

use super::{Check, Finding, Subject};
use crate::counted::counted;
use crate::exit::{Failure, Status};
use crate::job::Job;
use crate::model::Precision;

pub(super) const CHECK: Check = Check {
    name: "compute",
    description: "The device, and whether it multiplies matrices correctly.",
    runs_plugins: true,
    run,
};

fn run(subject: &Subject) -> Vec<Finding> {
    subject.of_job(|job| vec![examine(job).unwrap_or_else(|failure| Finding::failed(&failure))])
}

fn examine(job: &Job) -> Result<Finding, Failure> {
    let compute = job.compute()?;
    let DeviceInfo { kind, name, library, unified_memory, threads, fast_products, arithmetic } = compute.device();
    let begin = Instant::now();
    multiply(&compute)?;
    let milliseconds = begin.elapsed().as_secs_f64() * 1e3;
    let MemoryInfo { active_bytes, peak_bytes, cached_bytes } = compute.memory();
    let shared = if unified_memory { "shares memory with the host" } else { "has its own memory" };
    let Precision { dtype, operands } = job.precision()?;
    let products = match operands {
        Some(half) if fast_products.contains(&half) => format!(", products of {half}, which it is fast at"),
        Some(half) if kind == "cpu" => format!(", products of {half}, at the speed of float32"),
        Some(half) => format!(", products of {half}"),
        None => String::new(),
    };
    let message = format!(
        "{kind} {name} ({library}, {}), {shared}; it multiplies matrices correctly ({milliseconds:.1} ms); models are \
         computed in {dtype}{products}",
        counted(threads, "thread")
    );
    Ok(Finding::ok(message)
        .fact("dtype", dtype.name())
        .fact("matmul", operands.unwrap_or(Dtype::F32).name())
        .fact("arithmetic", arithmetic)
        .fact("fast_products", json!(fast_products.iter().map(|dtype| dtype.name()).collect::<Vec<_>>()))
        .fact("component", job.resolved.settings.compute.id.as_str())
        .fact("kind", kind)
        .fact("name", name)
        .fact("library", library)
        .fact("threads", threads)
        .fact("unified_memory", unified_memory)
        .fact("active_bytes", active_bytes)
        .fact("peak_bytes", peak_bytes)
        .fact("cached_bytes", cached_bytes))
}

/// Multiplies two matrices of small integers, for which single precision is exact.
fn multiply(compute: &Rc<dyn Compute>) -> Result<(), Failure> {
    const ROWS: usize = 48;
    const INNER: usize = 64;
    const COLUMNS: usize = 32;
    let left: Vec<f32> = (0..ROWS * INNER).map(|place| (place * 3 % 7) as f32 - 3.0).collect();
    let right: Vec<f32> = (0..INNER * COLUMNS).map(|place| (place * 5 % 11) as f32 - 5.0).collect();
    let upload = |shape: [usize; 2], elements: &[f32]| Tensor::from_host(compute, &HostArray::new(&shape, elements)?);
    let product = upload([ROWS, INNER], &left)?.matmul(&upload([INNER, COLUMNS], &right)?)?;
    let mut found = vec![0.0f32; ROWS * COLUMNS];
    product.read(&mut found)?;
    for (place, &found) in found.iter().enumerate() {
        let (row, column) = (place / COLUMNS, place % COLUMNS);
        let expected: f32 = (0..INNER).map(|k| left[row * INNER + k] * right[k * COLUMNS + column]).sum();
        if found != expected {
            return Err(Failure::new(Status::Other, "the device multiplies matrices incorrectly")
                .at(format!("row {row}, column {column}"))
                .because(format!("the product is {found}, and {expected} is correct"))
                .help("set `compute.device` to another device, or install another build of the compute plugin"));
        }
    }
    Ok(())
}
