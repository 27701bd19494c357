//! Data that crosses the boundary, with a stable layout, and its conversions.

use abi_stable::StableAbi;
use abi_stable::std_types::{RBox, ROption, RResult, RSlice, RStr, RString, RVec, Tuple2};

use crate::{Attribute, Dtype, Error, ErrorCode, HostArray, HostArrayRef, RawHostView, Result, Value};

/// [`Error`], one word wide.
#[repr(transparent)]
#[derive(StableAbi)]
pub struct RawError(RBox<RawErrorBody>);

/// The body of an error.
#[repr(C)]
#[derive(StableAbi)]
pub struct RawErrorBody {
    code: u32,
    message: RString,
    component: ROption<RString>,
    context: RVec<Tuple2<RString, RString>>,
    causes: RVec<RString>,
}

impl From<Error> for RawError {
    fn from(error: Error) -> Self {
        Self(RBox::new(RawErrorBody {
            code: error.code() as u32,
            message: error.message().into(),
            component: error.component().map(RString::from).into(),
            context: error.context().iter().map(|(k, v)| Tuple2(k.as_str().into(), v.as_str().into())).collect(),
            causes: error.causes().iter().map(|cause| cause.as_str().into()).collect(),
        }))
    }
}

impl From<RawError> for Error {
    fn from(raw: RawError) -> Self {
        let body = RBox::into_inner(raw.0);
        let mut error = Self::new(ErrorCode::from_number(body.code), body.message);
        for Tuple2(key, value) in body.context {
            error = error.with(key, value);
        }
        for cause in body.causes {
            error = error.caused_by(cause);
        }
        match body.component.into_option() {
            Some(component) => error.in_component(component),
            None => error,
        }
    }
}

/// A raw result as a plain one.
pub(crate) fn plain<T>(raw: RResult<T, RawError>) -> Result<T> {
    raw.into_result().map_err(Error::from)
}

/// Conversions between a raw struct and the plain one with the same fields.
macro_rules! same_fields {
    ($($raw:ident, $plain:ident { $($field:ident),* $(,)? })*) => { $(
        impl From<$plain> for $raw {
            fn from(plain: $plain) -> Self {
                Self { $($field: plain.$field.into()),* }
            }
        }

        impl From<$raw> for $plain {
            fn from(raw: $raw) -> Self {
                Self { $($field: raw.$field.into()),* }
            }
        }
    )* };
}
pub(super) use same_fields;

/// [`Attribute`]. A tag that the receiver does not know is an error there.
#[repr(C)]
#[derive(StableAbi)]
pub struct RawAttribute<'a> {
    name: RStr<'a>,
    tag: u32,
    integer: i64,
    float: f64,
    integers: RSlice<'a, i64>,
}

impl<'a> From<&Attribute<'a>> for RawAttribute<'a> {
    fn from(attribute: &Attribute<'a>) -> Self {
        let mut raw =
            Self { name: attribute.name.into(), tag: 0, integer: 0, float: 0.0, integers: RSlice::from_slice(&[]) };
        match attribute.value {
            Value::Bool(value) => (raw.tag, raw.integer) = (1, i64::from(value)),
            Value::Int(value) => (raw.tag, raw.integer) = (2, value),
            Value::Float(value) => (raw.tag, raw.float) = (3, value),
            Value::Ints(values) => (raw.tag, raw.integers) = (4, values.into()),
            Value::Dtype(dtype) => (raw.tag, raw.integer) = (5, i64::from(dtype.0)),
        }
        raw
    }
}

impl<'a> RawAttribute<'a> {
    pub(crate) fn plain(&self) -> Result<Attribute<'a>> {
        let value = match self.tag {
            1 => Value::Bool(self.integer != 0),
            2 => Value::Int(self.integer),
            3 => Value::Float(self.float),
            4 => Value::Ints(self.integers.as_slice()),
            5 => Value::Dtype(Dtype(self.integer as u32)),
            tag => {
                return Err(Error::plugin(format!(
                    "attribute {:?} has a value of kind {tag}, which this plugin is too old to know",
                    self.name
                )));
            }
        };
        Ok(Attribute { name: self.name.as_str(), value })
    }
}

/// [`HostArrayRef`].
#[repr(C)]
#[derive(StableAbi)]
pub struct RawArrayRef<'a> {
    dtype: u32,
    shape: RSlice<'a, usize>,
    bytes: RSlice<'a, u8>,
}

impl<'a> From<HostArrayRef<'a>> for RawArrayRef<'a> {
    fn from(array: HostArrayRef<'a>) -> Self {
        Self { dtype: array.dtype.0, shape: array.shape.into(), bytes: array.bytes.into() }
    }
}

impl<'a> RawArrayRef<'a> {
    pub(crate) fn plain(&self) -> HostArrayRef<'a> {
        HostArrayRef { dtype: Dtype(self.dtype), shape: self.shape.as_slice(), bytes: self.bytes.as_slice() }
    }
}

/// [`HostArray`].
#[repr(C)]
#[derive(StableAbi)]
pub struct RawArray {
    dtype: u32,
    shape: RVec<usize>,
    bytes: RVec<u8>,
}

impl From<HostArray> for RawArray {
    fn from(array: HostArray) -> Self {
        Self { dtype: array.dtype().0, shape: array.shape().into(), bytes: array.into_bytes().into() }
    }
}

impl RawArray {
    pub(crate) fn plain(self) -> Result<HostArray> {
        HostArray::from_bytes(Dtype(self.dtype), &self.shape, self.bytes.into())
    }
}

/// [`RawHostView`].
#[repr(C)]
#[derive(StableAbi)]
pub struct RawView {
    data: *mut u8,
    dtype: u32,
    shape: RVec<usize>,
    strides: RVec<isize>,
}

same_fields! {
    RawView, RawHostView { data, dtype, shape, strides }
}
