//! The version of the boundary, and of each kind of component on it.

/// The version of the boundary. While it is 0.x, a plugin must be built for exactly this one.
pub const ABI_VERSION: &str = crate::__abi_version!();

/// The version of the boundary as a literal, for records.
#[doc(hidden)]
#[macro_export]
macro_rules! __abi_version {
    () => {
        "0.1"
    };
}

/// The version of a kind's trait as a literal; [`Kind::version`](crate::Kind::version) says the same.
#[doc(hidden)]
#[macro_export]
macro_rules! __kind_version {
    (compute) => {
        1
    };
    (model) => {
        1
    };
    (trainer) => {
        1
    };
    (optimizer) => {
        1
    };
    (data) => {
        1
    };
    (comm) => {
        1
    };
}
