//! When an operation is composed, on a device that has one operation and fails at all. What is computed then is tested on a device
//! that computes, in `examples/cpu_compute/tests/compositions`.

use std::cell::RefCell;
use std::rc::Rc;

use crate::abi::across;
use crate::op::attribute;
use crate::{
    Attribute, Compute, DeviceInfo, Dtype, Error, Handle, HostArrayRef, MemoryInfo, OpKind, RawHostView,
    RecomputedFunction, Result, Tensor, TensorFunction, TensorType, Value, ValueAndGrad,
};

/// It says that it has softmax, and keeps what it was asked for.
#[derive(Default)]
struct Failing(RefCell<Vec<OpKind>>);

fn nothing<T>() -> Result<T> {
    Err(Error::plugin("this device does nothing"))
}

impl Compute for Failing {
    fn device(&self) -> DeviceInfo {
        DeviceInfo::default()
    }
    fn supports(&self, op: OpKind, _: &[&str], _: Dtype) -> bool {
        op == OpKind::SOFTMAX
    }
    fn op(&self, op: OpKind, _: &[Handle], _: &[Attribute<'_>], _: &mut [Handle]) -> Result<()> {
        self.0.borrow_mut().push(op);
        Err(Error::input("no memory").with("bytes", 7))
    }
    fn from_host(&self, _: HostArrayRef<'_>) -> Result<Handle> {
        nothing()
    }
    fn retain(&self, _: Handle) -> Result<Handle> {
        nothing()
    }
    fn release(&self, _: Handle) {}
    fn tensor_type(&self, _: Handle) -> Result<TensorType> {
        Ok(TensorType { shape: vec![2], dtype: Dtype::F32 })
    }
    fn eval(&self, _: &[Handle]) -> Result<()> {
        nothing()
    }
    fn host_view(&self, _: Handle) -> Result<RawHostView> {
        nothing()
    }
    fn host_view_mut(&self, _: Handle) -> Result<RawHostView> {
        nothing()
    }
    fn read(&self, _: Handle, _: Dtype, _: &mut [u8]) -> Result<()> {
        nothing()
    }
    fn write(&self, _: Handle, _: HostArrayRef<'_>) -> Result<()> {
        nothing()
    }
    fn value_and_grad(&self, _: &mut TensorFunction<'_>, _: &[Handle], _: &[Handle]) -> Result<ValueAndGrad> {
        nothing()
    }
    fn checkpoint(&self, _: Rc<RecomputedFunction>, _: &[Handle]) -> Result<Vec<Handle>> {
        nothing()
    }
    fn memory(&self) -> MemoryInfo {
        MemoryInfo::default()
    }
}

/// What a device was asked for, and the error that came, natively or as a host gets it.
fn asked(is_across: bool, apply: impl Fn(&Tensor) -> Result<Tensor>) -> (Vec<OpKind>, Error) {
    let device = Rc::new(Failing::default());
    let native = Rc::clone(&device) as Rc<dyn Compute>;
    let compute = if is_across { across::compute(&native).unwrap() } else { native };
    let error = apply(&Tensor::borrowed(&compute, 1)).unwrap_err();
    (device.0.take(), error)
}

#[test]
fn what_a_device_has_is_not_composed_when_it_fails() {
    for is_across in [false, true] {
        let (ops, error) = asked(is_across, |x| x.softmax(0));
        assert_eq!((ops, error.to_string()), (vec![OpKind::SOFTMAX], "no memory".to_owned()));
        // A primitive cannot be composed.
        let (ops, error) = asked(is_across, Tensor::exp);
        assert_eq!((ops, error.to_string()), (vec![OpKind::EXP], "no memory".to_owned()));
        // What nobody knows neither.
        let (ops, error) = asked(is_across, |x| Tensor::op(OpKind(9999), &[x], &[]));
        assert_eq!((ops, error.to_string()), (vec![OpKind(9999)], "no memory".to_owned()));
        let unknown = [attribute("axes", Value::Int(0))];
        assert_eq!(asked(is_across, |x| Tensor::op(OpKind::SORT, &[x], &unknown)).1.to_string(), "no memory");
    }
}

#[test]
fn what_a_device_lacks_is_composed_once_and_its_errors_name_it() {
    for is_across in [false, true] {
        let (ops, error) = asked(is_across, |x| x.log_softmax(0));
        assert_eq!(ops, [OpKind::LOG_SOFTMAX, OpKind::STOP_GRADIENT]);
        assert_eq!(error.to_string(), "operation log_softmax on float32 [2], composed of others: no memory");
        assert_eq!(
            (error.code(), error.context()),
            (crate::ErrorCode::Input, &[("bytes".to_owned(), "7".to_owned())][..])
        );
        // A number in the place of a tensor, of a primitive.
        let (ops, error) = asked(is_across, |x| 1.0 - x);
        assert_eq!(ops, [OpKind::SUBTRACT, OpKind::FULL]);
        assert_eq!(error.to_string(), "operation subtract on float32 [2], composed of others: no memory");
    }
}
