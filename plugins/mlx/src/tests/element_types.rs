//! Half precision from the host and back, through casts, gradients and scalars; and devices that share no memory.

use mdt_plugin_api::half::{bf16, f16};
use mdt_plugin_api::{Dtype, Handle, HostArray, HostArrayRef, Tensor};

use super::{cpu, elements, tensor, with_config};
use crate::{Config, DeviceChoice};

#[test]
fn half_precision_goes_in_is_cast_differentiated_and_read() {
    let compute = cpu();
    let values = [1.0f32, -2.5, 3.0];
    let bf16s = tensor(&compute, &[3], &values.map(bf16::from_f32));
    let f16s = tensor(&compute, &[3], &values.map(f16::from_f32));
    for (half, dtype) in [(bf16s, Dtype::BF16), (f16s, Dtype::F16)] {
        assert_eq!(half.tensor_type().unwrap().dtype, dtype);
        assert_eq!(half.to_vec::<f32>().unwrap(), values);
        assert_eq!(elements::<f32>(&half.cast(Dtype::F32).unwrap()), values);
        assert_eq!(half.sum().unwrap().item().unwrap(), 1.5);
        let scaled = half.multiply(2.0).unwrap();
        assert_eq!(scaled.tensor_type().unwrap().dtype, dtype);
        let mut function = |parameters: &[Handle], _: &[Handle]| {
            let half = Tensor::borrowed(&compute, parameters[0]);
            Ok(vec![(&half * &half)?.cast(Dtype::F32)?.sum()?.into_handle()?])
        };
        let result = compute.value_and_grad(&mut function, &[half.handle()], &[]).unwrap();
        assert_eq!(Tensor::from_handle(&compute, result.values[0]).item().unwrap(), 16.25);
        let gradient = Tensor::from_handle(&compute, result.gradients[0]);
        assert_eq!(gradient.tensor_type().unwrap().dtype, dtype);
        // In one pass into a buffer of f32, whatever the gradient's type is.
        let mut bucket = [0f32; 3];
        gradient.read(&mut bucket).unwrap();
        assert_eq!(bucket, [2.0, -5.0, 6.0]);
    }
}

#[test]
fn a_write_gives_a_tensor_new_elements_and_leaves_what_was_computed() {
    let compute = cpu();
    let mut weight = tensor(&compute, &[2, 1], &[1f32, 2.0]);
    let pending = (&weight + &weight).unwrap();
    weight.write(HostArrayRef::of(&[2, 1], &[5f32, 6.0])).unwrap();
    assert_eq!(elements::<f32>(&weight), [5.0, 6.0]);
    assert_eq!(elements::<f32>(&pending), [2.0, 4.0]);
    let error = weight.write(HostArrayRef::of(&[2], &[5f32, 6.0])).unwrap_err();
    assert!(error.message().contains("shape [2, 1]"), "{error}");
    assert!(weight.write(HostArrayRef::of(&[2, 1], &[5i32, 6])).is_err());
}

#[test]
fn without_shared_memory_views_are_refused_and_copies_work() {
    let compute = with_config(Config { device: DeviceChoice::Cpu, threads: 1, shared_memory: false });
    assert!(!compute.device().unified_memory);
    let mut x = Tensor::from_host(&compute, &HostArray::new(&[2, 2], &[1f32, 2.0, 3.0, 4.0]).unwrap()).unwrap();
    for error in [x.host_view().err(), x.host_view_mut().err()] {
        assert!(error.unwrap().message().contains("does not share its memory"));
    }
    assert_eq!(x.transpose(&[1, 0]).unwrap().to_vec::<f32>().unwrap(), [1.0, 3.0, 2.0, 4.0]);
    assert_eq!(x.sum().unwrap().item().unwrap(), 10.0);
    x.write(HostArrayRef::of(&[2, 2], &[0f32; 4])).unwrap();
    assert_eq!(x.to_vec::<f32>().unwrap(), [0.0; 4]);
}
