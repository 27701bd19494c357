//! How long handles live.

use mdt_plugin_api::{HostArrayRef, OpKind, Tensor};

use super::{cpu, elements, tensor};

#[test]
fn a_released_handle_is_an_error_and_a_second_release_is_none() {
    let compute = cpu();
    let handle = tensor(&compute, &[1], &[1f32]).into_handle().unwrap();
    let second = compute.retain(handle).unwrap();
    compute.release(handle);
    compute.release(handle);
    let error = compute.op(OpKind::EXP, &[handle], &[], &mut [0]).unwrap_err();
    assert!(error.message().contains("not alive"), "{error}");
    assert_eq!(error.context()[1], ("operation".to_owned(), "exp".to_owned()));
    assert!(compute.host_view(handle).is_err());
    assert_eq!(elements::<f32>(&Tensor::from_handle(&compute, second)), [1.0]);
}

#[test]
fn a_view_keeps_its_memory_whatever_happens_to_the_handle() {
    let compute = cpu();
    let handle = tensor(&compute, &[2], &[1f32, 2.0]).into_handle().unwrap();
    let mut tensor = Tensor::borrowed(&compute, handle);
    let view = tensor.host_view().unwrap();
    Tensor::borrowed(&compute, handle).write(HostArrayRef::of(&[2], &[3f32, 4.0])).unwrap();
    assert_eq!(view.as_slice::<f32>().unwrap(), [1.0, 2.0]);
    drop(view);

    let mut view = tensor.host_view_mut().unwrap();
    assert!(Tensor::borrowed(&compute, handle).host_view_mut().is_err(), "a second view for writing");
    compute.release(handle);
    assert_eq!(view.as_mut_slice::<f32>().unwrap(), [3.0, 4.0]);
}

#[test]
fn handles_made_while_recording_die_with_it_but_for_the_returned_ones() {
    let compute = cpu();
    let x = tensor(&compute, &[], &[2f32]);
    let mut leaked = Vec::new();
    let mut function = |parameters: &[u64], _: &[u64]| {
        let mut kept = [0];
        compute.op(OpKind::SQUARE, parameters, &[], &mut kept)?;
        leaked.extend_from_slice(parameters);
        leaked.extend_from_slice(&kept);
        leaked.push(compute.retain(x.handle())?);
        Ok(kept.to_vec())
    };
    let result = compute.value_and_grad(&mut function, &[x.handle()], &[]).unwrap();
    assert_eq!(leaked.len(), 3);
    for handle in leaked {
        assert!(compute.tensor_type(handle).is_err());
    }
    assert_eq!(Tensor::from_handle(&compute, result.values[0]).item().unwrap(), 4.0);
    assert_eq!(x.item().unwrap(), 2.0);
}

#[test]
fn handles_of_a_failed_recording_die_too() {
    let compute = cpu();
    let x = tensor(&compute, &[], &[2f32]);
    for panics in [false, true] {
        let mut made = 0;
        let mut function = |parameters: &[u64], _: &[u64]| {
            compute.op(OpKind::SQUARE, parameters, &[], std::slice::from_mut(&mut made))?;
            if panics { panic!("stop") } else { Err(mdt_plugin_api::Error::other("stop")) }
        };
        assert!(compute.value_and_grad(&mut function, &[x.handle()], &[]).is_err());
        assert!(made != 0 && compute.tensor_type(made).is_err());
        assert!(x.eval().is_ok(), "the recording is over");
    }
}
