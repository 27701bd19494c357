//! Tables of functions: declared once, for the layout, both sides of a call, the C header and the fingerprint.

use std::ffi::c_void;

use abi_stable::std_types::{RSlice, RSliceMut, RStr};

/// A table of functions under the name of an interface. Once published, a table never changes.
pub(super) trait Table: 'static {
    /// The interface: its kind, what it is for, its number: `optimizer.slices/1`.
    const NAME: &'static str;

    /// Adds the table, after the types that it uses.
    fn declare(declarations: &mut Declarations);

    /// Identifies the table by its declaration in C, which fixes names, types and order.
    fn fingerprint() -> u64;
}

/// FNV-1a over the declaration of a table.
pub(super) fn fingerprint<T: Table>() -> u64 {
    let mut declarations = Declarations::default();
    T::declare(&mut declarations);
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    declarations.0.iter().flat_map(|declared| declared.text().into_bytes()).fold(0xcbf2_9ce4_8422_2325, hash)
}

/// The C declarations of types, each after those that it uses.
#[derive(Default)]
pub(super) struct Declarations(pub(super) Vec<Declared>);

/// A struct in C, and its layout in Rust.
pub(super) struct Declared {
    pub(super) name: String,
    pub(super) size: usize,
    pub(super) members: Vec<Member>,
}

/// A member of a struct.
pub(super) struct Member {
    /// Its declaration, without a semicolon: `uint64_t step`.
    pub(super) text: String,
    pub(super) name: &'static str,
    pub(super) offset: usize,
}

impl Declared {
    /// It in C, which checks the layout where pointers have 64 bits.
    pub(super) fn text(&self) -> String {
        let Self { name, size, members } = self;
        let lines: String = members.iter().map(|member| format!("    {};\n", member.text)).collect();
        let offset = |member: &Member| format!(" && offsetof({name}, {}) == {}", member.name, member.offset);
        let offsets: String = members.iter().map(offset).collect();
        format!("typedef struct {{\n{lines}}} {name};\nMDT_LAYOUT(sizeof({name}) == {size}{offsets})\n")
    }
}

impl Declarations {
    /// Adds a struct, unless it is there.
    pub(super) fn add(&mut self, name: String, size: usize, members: Vec<Member>) {
        if !self.0.iter().any(|known| known.name == name) {
            self.0.push(Declared { name, size, members });
        }
    }

    /// Adds a struct whose every member is as wide as a pointer, unless it is there.
    pub(super) fn add_words(&mut self, name: String, members: &[(&'static str, String)]) {
        let word = size_of::<usize>();
        let member = |(index, (name, text)): (usize, &(&'static str, String))| Member {
            text: text.clone(),
            name,
            offset: index * word,
        };
        self.add(name, members.len() * word, members.iter().enumerate().map(member).collect());
    }
}

/// A member of a type with a name in C.
pub(super) fn member<T: CType>(name: &'static str, offset: usize) -> Member {
    Member { text: format!("{} {name}", T::name()), name, offset }
}

/// A type with a name in C.
pub(super) trait CType {
    /// Its name: `uint64_t`, `MdtSlice_float`.
    fn name() -> String;
    /// Adds what declares it, where C does not know it.
    fn declare(_declarations: &mut Declarations) {}
}

macro_rules! c_names {
    ($($type:ty => $name:literal),* $(,)?) => { $(impl CType for $type {
        fn name() -> String {
            $name.to_owned()
        }
    })* };
}
c_names! {
    bool => "bool", u8 => "uint8_t", u16 => "uint16_t", u32 => "uint32_t", u64 => "uint64_t", i64 => "int64_t",
    usize => "size_t", isize => "ptrdiff_t", f32 => "float", f64 => "double",
    *mut u8 => "uint8_t *", *mut c_void => "void *", *const c_void => "const void *",
}

impl<T: CType> CType for &T {
    fn name() -> String {
        format!("const {} *", T::name())
    }

    fn declare(declarations: &mut Declarations) {
        T::declare(declarations);
    }
}

impl<T: CType> CType for &mut T {
    fn name() -> String {
        format!("{} *", T::name())
    }

    fn declare(declarations: &mut Declarations) {
        T::declare(declarations);
    }
}

macro_rules! c_slices {
    ($($type:ident, $prefix:literal, $constant:literal;)*) => { $(impl<T: CType> CType for $type<'_, T> {
        fn name() -> String {
            format!("{}{}", $prefix, T::name())
        }

        fn declare(declarations: &mut Declarations) {
            T::declare(declarations);
            let data = format!("{}{} *data", $constant, T::name());
            declarations.add_words(Self::name(), &[("data", data), ("length", "size_t length".to_owned())]);
        }
    })* };
}
c_slices! { RSlice, "MdtSlice_", "const "; RSliceMut, "MdtSliceMut_", ""; }

impl CType for RStr<'_> {
    fn name() -> String {
        "MdtStr".to_owned()
    }

    fn declare(declarations: &mut Declarations) {
        let data = "const uint8_t *data".to_owned();
        declarations.add_words(Self::name(), &[("data", data), ("length", "size_t length".to_owned())]);
    }
}

/// Declares a struct of the boundary, whose fields have names in C.
macro_rules! c_struct {
    ($($(#[$attribute:meta])* $c_name:literal $name:ident $(<$lifetime:lifetime>)? {
        $($(#[$field_attribute:meta])* $field:ident: $type:ty,)*
    })*) => { $(
        $(#[$attribute])*
        #[repr(C)]
        #[derive(abi_stable::StableAbi, Clone, Copy)]
        pub struct $name $(<$lifetime>)? {
            $($(#[$field_attribute])* pub(super) $field: $type,)*
        }

        impl $(<$lifetime>)? $crate::abi::table::CType for $name $(<$lifetime>)? {
            fn name() -> String {
                $c_name.to_owned()
            }

            fn declare(declarations: &mut $crate::abi::table::Declarations) {
                $(<$type as $crate::abi::table::CType>::declare(declarations);)*
                let members = vec![$($crate::abi::table::member::<$type>(
                    stringify!($field), std::mem::offset_of!(Self, $field),
                )),*];
                declarations.add(Self::name(), size_of::<Self>(), members);
            }
        }
    )* };
}
pub(super) use c_struct;

/// Declares interfaces. Every function gets the object and, last, a sink for its reply (nothing, or a record) or for an
/// [`Error`](crate::Error) as a record; it returns whether it succeeded.
///
/// For each it makes the table; a trait with the same functions, which a plain object implements on the side that exports
/// it; and the same trait for [`Imported`](super::object::Imported) on the side that calls.
macro_rules! interfaces {
    ($($(#[$attribute:meta])* $interface:literal $table:ident $functions:ident {
        $($(#[$function_attribute:meta])* fn $function:ident($($argument:ident: $type:ty),*) $(-> $reply:ty)?;)*
    })*) => { $(
        $(#[$attribute])*
        #[repr(C)]
        #[derive(abi_stable::StableAbi)]
        pub struct $table {
            $($(#[$function_attribute])* pub(super) $function: unsafe extern "C" fn(
                *const std::ffi::c_void, $($type,)* $crate::abi::object::RawSink<'_, u8>,
            ) -> bool,)*
        }

        /// The functions of the table of the same name.
        pub(super) trait $functions {
            $(fn $function(&self $(, $argument: $type)*) -> $crate::Result<$crate::abi::table::reply!($($reply)?)>;)*
        }

        impl $table {
            /// The table for objects that are made of `T`.
            pub(super) const fn of<T: $functions + $crate::abi::object::Exported>() -> Self {
                $(unsafe extern "C" fn $function<T: $functions + $crate::abi::object::Exported>(
                    object: *const std::ffi::c_void $(, $argument: $type)*, out: $crate::abi::object::RawSink<'_, u8>,
                ) -> bool {
                    // SAFETY: a table of `T` is given for objects that were made of `T`, and they outlive the call.
                    unsafe { $crate::abi::object::answer(object, out, |value: &T| value.$function($($argument),*)) }
                })*
                Self { $($function: $function::<T>),* }
            }
        }

        impl $functions for $crate::abi::object::Imported<$table> {
            $(#[inline]
            fn $function(&self $(, $argument: $type)*) -> $crate::Result<$crate::abi::table::reply!($($reply)?)> {
                let place = &$crate::abi::under_way::Place { interface: $interface, function: stringify!($function) };
                let mut reply = Vec::new();
                let under_way = self.enter(place);
                // SAFETY: the object belongs to this table; references and sinks live until the call returns.
                let succeeded = unsafe {
                    let out = $crate::abi::object::RawSink::of(&mut reply);
                    (self.table().$function)(
                        self.data() $(, $argument)*, out,
                    )
                };
                drop(under_way);
                $crate::abi::object::replied(succeeded, &reply)
            })*
        }

        impl $crate::abi::table::Table for $table {
            const NAME: &'static str = $interface;

            fn declare(declarations: &mut $crate::abi::table::Declarations) {
                use $crate::abi::table::{CType, Member};
                <$crate::abi::object::RawSink<'_, u8> as CType>::declare(declarations);
                $($(<$type as CType>::declare(declarations);)*)*
                let mut members = Vec::new();
                $(
                    let arguments: &[String] =
                        &[$(format!("{} {}, ", <$type as CType>::name(), stringify!($argument))),*];
                    let text = format!(
                        "bool (*{})(const void *object, {}MdtSink_uint8_t out)",
                        stringify!($function),
                        arguments.concat(),
                    );
                    members.push(Member { text, name: stringify!($function), offset: std::mem::offset_of!(Self, $function) });
                )*
                declarations.add(concat!("Mdt", stringify!($table)).to_owned(), size_of::<Self>(), members);
            }

            fn fingerprint() -> u64 {
                static FINGERPRINT: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
                *FINGERPRINT.get_or_init($crate::abi::table::fingerprint::<Self>)
            }
        }
    )* };
}
pub(super) use interfaces;

macro_rules! reply {
    () => {
        ()
    };
    ($reply:ty) => {
        $reply
    };
}
pub(super) use reply;
