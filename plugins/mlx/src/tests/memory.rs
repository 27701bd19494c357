//! Host memory: copies in, views out, writing in place.

use mdt_plugin_api::{Dtype, HostArray, HostArrayRef, Tensor, TensorType};

use super::{cpu, elements, random, tensor};

#[test]
fn every_element_type_survives_the_way_in_and_out() {
    let compute = cpu();
    // With the last element as a number.
    let cases: [(Dtype, &[u8], f64); 13] = [
        (Dtype::BOOL, &[0, 1, 1], 1.0),
        (Dtype::U8, &[0, 7, 255], 255.0),
        (Dtype::I8, &[0, 7, 255], -1.0),
        (Dtype::U16, &[0, 7, 255, 1, 0xff, 0xff], 65535.0),
        (Dtype::I16, &[0, 7, 255, 1, 0xff, 0xff], -1.0),
        (Dtype::I32, &[1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0x80], -2147483648.0),
        (Dtype::U32, &[9; 12], 0x0909_0909 as f64),
        (Dtype::I64, &[0xff; 24], -1.0),
        (Dtype::U64, &[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x80], 2f64.powi(63)),
        (Dtype::F16, &[0, 0x3c, 1, 0, 0, 0xc0], -2.0),
        (Dtype::BF16, &[0x80, 0x3f, 1, 0, 0, 0xc0], -2.0),
        (Dtype::F32, &[1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x80, 0x3f], 1.0),
        (Dtype::F64, &[0x3f; 24], f64::from_ne_bytes([0x3f; 8])),
    ];
    for (dtype, bytes, last) in cases {
        // Once as they lie, once one byte further, as in a memory-mapped file.
        for shift in 0..2 {
            let mut memory = vec![0; shift];
            memory.extend_from_slice(bytes);
            let array = HostArrayRef { dtype, shape: &[3], bytes: &memory[shift..] };
            let copy = Tensor::from_handle(&compute, compute.from_host(array).unwrap());
            drop(memory);
            assert_eq!(copy.tensor_type().unwrap(), TensorType { shape: vec![3], dtype });
            let view = compute.host_view(copy.handle()).unwrap();
            assert_eq!((view.dtype, view.is_contiguous()), (dtype, true));
            // SAFETY: the view is of three evaluated elements of this type, and the tensor lives on.
            let got = unsafe { std::slice::from_raw_parts(view.data.cast_const(), bytes.len()) };
            assert_eq!(got, bytes, "{dtype}");
            assert_eq!(copy.slice(&[2], &[3]).unwrap().item().unwrap(), last, "{dtype}");
        }
    }
}

#[test]
fn scalars_and_empty_tensors_have_views() {
    let compute = cpu();
    assert_eq!(tensor(&compute, &[], &[4i32]).item().unwrap(), 4.0);
    let empty = tensor::<f32>(&compute, &[0, 3], &[]);
    assert_eq!(empty.host_view().unwrap().as_slice::<f32>().unwrap(), [0f32; 0]);
    assert_eq!(empty.shape().unwrap(), [0, 3]);
}

#[test]
fn bytes_that_are_no_array_are_refused() {
    let compute = cpu();
    let array = HostArray::from_bytes(Dtype::BOOL, &[2], vec![1, 2]).unwrap();
    assert!(compute.from_host(array.borrow()).unwrap_err().message().contains("the byte 2"));
    let short = HostArrayRef { dtype: Dtype::F32, shape: &[2], bytes: &[0; 7] };
    assert!(compute.from_host(short).unwrap_err().message().contains("7 bytes"));
    let unknown = HostArrayRef { dtype: Dtype(77), shape: &[0], bytes: &[] };
    assert!(compute.from_host(unknown).unwrap_err().message().contains("77"));
}

#[test]
fn a_view_of_a_transpose_has_its_strides() {
    let compute = cpu();
    let x = tensor(&compute, &[2, 3], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let view = compute.host_view(x.transpose(&[1, 0]).unwrap().handle()).unwrap();
    assert_eq!((view.shape, view.strides), (vec![3, 2], vec![1, 3]));
}

#[test]
fn writing_in_place_is_seen_by_the_next_forward() {
    let compute = cpu();
    let mut weight = tensor(&compute, &[3], &[1f32, 2.0, 3.0]);
    let input = tensor(&compute, &[3], &[1f32, 1.0, 1.0]);
    let forward = |weight: &Tensor| (weight * &input).unwrap().sum().unwrap().item().unwrap();
    assert_eq!(forward(&weight), 6.0);
    let address = {
        let mut view = weight.host_view_mut().unwrap();
        let slice = view.as_mut_slice::<f32>().unwrap();
        slice.iter_mut().for_each(|element| *element *= 10.0);
        slice.as_ptr()
    };
    assert_eq!(forward(&weight), 60.0);
    assert_eq!(weight.host_view().unwrap().as_slice::<f32>().unwrap().as_ptr(), address, "no copy was made");
}

#[test]
fn a_gradient_step_leaves_the_parameter_writable() {
    let compute = cpu();
    let mut weight = tensor(&compute, &[4, 3], &random(1, 12));
    let input = tensor(&compute, &[2, 3], &random(2, 6));
    for _ in 0..3 {
        let mut function = |parameters: &[u64], inputs: &[u64]| {
            let (weight, input) = (Tensor::borrowed(&compute, parameters[0]), Tensor::borrowed(&compute, inputs[0]));
            let output = input.matmul(&weight.transpose(&[1, 0])?)?;
            Ok(vec![(&output * &output)?.sum()?.into_handle()?])
        };
        let result = compute.value_and_grad(&mut function, &[weight.handle()], &[input.handle()]).unwrap();
        let [loss, gradient] =
            [result.values[0], result.gradients[0]].map(|handle| Tensor::from_handle(&compute, handle));
        assert!(weight.host_view_mut().is_err(), "the pending loss refers to it");
        compute.eval(&[loss.handle(), gradient.handle()]).unwrap();
        let before = loss.item().unwrap();
        let gradient = elements::<f32>(&gradient);
        drop(loss);
        let mut view = weight.host_view_mut().unwrap();
        for (element, gradient) in view.as_mut_slice::<f32>().unwrap().iter_mut().zip(gradient) {
            *element -= 0.01 * gradient;
        }
        assert!(before > 0.0);
    }
}

#[test]
fn writing_is_refused_while_something_else_refers_to_the_memory() {
    let compute = cpu();
    let mut weight = tensor(&compute, &[2, 2], &[1f32, 2.0, 3.0, 4.0]);
    let refused = |weight: &mut Tensor| weight.host_view_mut().is_err();
    assert!(!refused(&mut weight));
    let reshaped = weight.reshape(&[4]).unwrap();
    assert!(refused(&mut weight), "a reshape that is not evaluated");
    reshaped.eval().unwrap();
    assert!(refused(&mut weight), "a reshape that is evaluated");
    drop(reshaped);
    assert!(!refused(&mut weight));
    let second = weight.try_clone().unwrap();
    assert!(refused(&mut weight), "a second handle");
    drop(second);
    assert!(!refused(&mut weight));
    let mut lazy = (&weight + &weight).unwrap();
    assert!(refused(&mut weight), "a pending sum");
    assert!(lazy.host_view_mut().unwrap_err().message().contains("not evaluated"));
    lazy.eval().unwrap();
    assert!(!refused(&mut lazy));
    assert!(!refused(&mut weight));
    let mut transposed = weight.transpose(&[1, 0]).unwrap();
    transposed.eval().unwrap();
    drop(weight);
    assert!(transposed.host_view_mut().unwrap_err().message().contains("one after another"));
}

#[test]
fn memory_is_counted() {
    let compute = cpu();
    let before = compute.memory();
    let x = tensor(&compute, &[1 << 20], &vec![1f32; 1 << 20]);
    let y = (&x + &x).unwrap();
    y.eval().unwrap();
    let during = compute.memory();
    assert!(during.peak_bytes >= 8 << 20);
    assert!(during.active_bytes >= 8 << 20, "{before:?} {during:?}");
}

#[test]
fn reading_values_of_ever_new_shapes_keeps_no_more_than_was_once_in_use() {
    let compute = cpu();
    for rows in 1..60 {
        let x = tensor(&compute, &[rows, 1 << 16], &vec![1f32; rows << 16]);
        assert_eq!((&x + &x).unwrap().sum().unwrap().item().unwrap(), (rows << 17) as f64);
    }
    let memory = compute.memory();
    // Other tests use the same counters at the same time.
    assert!(memory.cached_bytes <= memory.peak_bytes + (64 << 20), "{memory:?}");
}
