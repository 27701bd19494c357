//! Objects across the boundary: data, `drop`, and `get`, which gives a table of functions by the name of an interface.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::sync::Arc;

use abi_stable::StableAbi;
use abi_stable::std_types::{RSlice, RStr};

use super::guard::Guarded;
use super::record::Reply;
use super::table::{CType, Declarations, Table, c_struct};
use super::under_way::{self, Place, UnderWay};
use crate::{Error, Result};

/// An object and all that it owns. The receiver of one drops it.
#[repr(C)]
#[derive(StableAbi)]
pub struct RawObject {
    data: *const c_void,
    drop: unsafe extern "C" fn(*const c_void),
    get: unsafe extern "C" fn(*const c_void, RStr<'_>) -> RawInterface,
}

c_struct! {
    /// An interface of an object: its table, and what the table's functions take as their first argument.
    "MdtInterface" RawInterface {
        object: *const c_void,
        /// Null where the object has no interface of this name.
        table: *const c_void,
        /// [`Table::fingerprint`] of the table as its maker declared it.
        fingerprint: u64,
    }
}

impl RawInterface {
    const ABSENT: Self = Self { object: std::ptr::null(), table: std::ptr::null(), fingerprint: 0 };
}

/// A value that is exported as an object, by the interfaces that it has.
pub(super) trait Exported: Sized + 'static {
    /// The table of this name for an object of this type, if it has one, and its fingerprint.
    fn table(value: &Guarded<Self>, name: &str) -> Option<(*const c_void, u64)>;
}

/// Declares which interfaces an exported type has; `Table if ability` is one that it has where that field is some.
macro_rules! exports {
    ($($type:ty: $($table:ident $(if $ability:ident)?),+;)*) => { $(
        impl $crate::abi::object::Exported for $type {
            #[allow(unused_variables, reason = "only some interfaces depend on the value")]
            fn table(
                value: &$crate::abi::guard::Guarded<Self>,
                name: &str,
            ) -> Option<(*const std::ffi::c_void, u64)> {
                $(if name == <$table as $crate::abi::table::Table>::NAME
                    $(&& value.plain().$ability.is_some())?
                {
                    let table: &'static $table = const { &$table::of::<Self>() };
                    return Some((
                        std::ptr::from_ref(table).cast(),
                        <$table as $crate::abi::table::Table>::fingerprint(),
                    ));
                })+
                None
            }
        }
    )* };
}
pub(super) use exports;

/// The ability of an object whose interface is this table, if it has it.
macro_rules! ability {
    ($table:ident of $object:expr, $name:expr) => {
        $crate::abi::object::Imported::<$table>::find(&$object, $name)?.map(|found| std::sync::Arc::new(found) as _)
    };
}
pub(super) use ability;

impl RawObject {
    /// An object of a component or of the host, guarded.
    pub(super) fn new<T: Exported>(value: Guarded<T>) -> Self {
        unsafe extern "C" fn drop_value<T>(data: *const c_void) {
            // SAFETY: `new` boxed it, and an object is dropped once.
            drop(unsafe { Box::from_raw(data.cast_mut().cast::<Guarded<T>>()) });
        }
        unsafe extern "C" fn get<T: Exported>(object: *const c_void, name: RStr<'_>) -> RawInterface {
            // SAFETY: `new` boxed it, and it lives until `drop_value`.
            let value = unsafe { &*object.cast::<Guarded<T>>() };
            match T::table(value, name.as_str()) {
                Some((table, fingerprint)) => RawInterface { object, table, fingerprint },
                None => RawInterface::ABSENT,
            }
        }
        Self { data: Box::into_raw(Box::new(value)).cast(), drop: drop_value::<T>, get: get::<T> }
    }

    /// The object, for all that keep one of its interfaces.
    #[allow(clippy::arc_with_non_send_sync, reason = "objects of one thread use the same code as those of any")]
    pub(super) fn into_shared(self) -> Arc<Self> {
        Arc::new(self)
    }

    /// Another owner of an object that came across already: it is handed on as it is, not wrapped again.
    fn shared(object: &Arc<Self>) -> Self {
        unsafe extern "C" fn drop_share(data: *const c_void) {
            // SAFETY: `shared` made it of an `Arc`, and an object is dropped once.
            drop(unsafe { Arc::from_raw(data.cast::<RawObject>()) });
        }
        unsafe extern "C" fn get(data: *const c_void, name: RStr<'_>) -> RawInterface {
            // SAFETY: `shared` made it of an `Arc`, which lives until `drop_share`.
            let object = unsafe { &*data.cast::<RawObject>() };
            // SAFETY: the function belongs to this object.
            unsafe { (object.get)(object.data, name) }
        }
        Self { data: Arc::into_raw(Arc::clone(object)).cast(), drop: drop_share, get }
    }
}

/// Nothing, in a slot that an object is written to or was taken from.
impl Default for RawObject {
    fn default() -> Self {
        unsafe extern "C" fn nothing(_: *const c_void) {}
        unsafe extern "C" fn absent(_: *const c_void, _: RStr<'_>) -> RawInterface {
            RawInterface::ABSENT
        }
        Self { data: std::ptr::null(), drop: nothing, get: absent }
    }
}

impl Drop for RawObject {
    fn drop(&mut self) {
        // SAFETY: the function belongs to this object, which is dropped once.
        unsafe { (self.drop)(self.data) }
    }
}

/// An interface of an object from the other side, which it keeps alive.
pub(super) struct Imported<T: Table> {
    object: Arc<RawObject>,
    interface: RawInterface,
    table: PhantomData<&'static T>,
    name: &'static str,
}

/// A table whose functions any thread may call.
///
/// # Safety
/// Whoever exports the table exports it for objects that are `Send + Sync` only.
pub(super) unsafe trait AnyThread: Table {}

// SAFETY: the object may be called and dropped on any thread, by the promise of `AnyThread`.
unsafe impl<T: AnyThread> Send for Imported<T> {}
// SAFETY: as above.
unsafe impl<T: AnyThread> Sync for Imported<T> {}

impl<T: Table> Imported<T> {
    /// The interface `T` of an object of a component, or of the host, with this name.
    ///
    /// # Errors
    /// The object does not have it, or has another table under its name.
    pub(super) fn of(object: RawObject, name: &'static str) -> Result<Self> {
        Self::find(&object.into_shared(), name)?.ok_or_else(|| {
            Error::plugin(format!("it does not have the interface {}, which is needed here", T::NAME))
                .in_component(name)
        })
    }

    /// The same for an ability: none where the object does not have it.
    ///
    /// # Errors
    /// The object has another table under its name.
    pub(super) fn find(object: &Arc<RawObject>, name: &'static str) -> Result<Option<Self>> {
        // SAFETY: the function belongs to this object.
        let interface = unsafe { (object.get)(object.data, T::NAME.into()) };
        if interface.table.is_null() {
            return Ok(None);
        }
        if interface.fingerprint != T::fingerprint() {
            return Err(Error::plugin(format!("its interface {} is not the one of this name here", T::NAME))
                .in_component(name)
                .help("a published interface never changes: get the plugin from its maker again, or rebuild it"));
        }
        Ok(Some(Self { object: Arc::clone(object), interface, table: PhantomData, name }))
    }

    /// Another interface of the same object, if it has it.
    ///
    /// # Errors
    /// The object has another table under its name.
    pub(super) fn beside<U: Table>(&self) -> Result<Option<Imported<U>>> {
        Imported::find(&self.object, self.name)
    }

    /// The name that it was given, for what the object makes.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Names it after what it has said of itself.
    pub(super) fn rename(&mut self, name: &'static str) {
        self.name = name;
    }

    /// The object, to hand it on.
    pub(super) fn share(&self) -> RawObject {
        RawObject::shared(&self.object)
    }

    /// Marks that one of the functions is called, until the mark is dropped.
    #[inline(always)]
    pub(super) fn enter(&self, place: &'static Place) -> UnderWay {
        under_way::enter(self.name, place)
    }

    /// The functions.
    #[inline(always)]
    pub(super) fn table(&self) -> &T {
        // SAFETY: a table of this fingerprint is of this type, and lives as long as its library, which is never unloaded.
        unsafe { &*self.interface.table.cast::<T>() }
    }

    /// Their first argument.
    #[inline(always)]
    pub(super) fn data(&self) -> *const c_void {
        self.interface.object
    }
}

/// The reply of a function of a table, or its error.
#[inline(always)]
pub(super) fn replied<R: Reply>(succeeded: bool, reply: &[u8]) -> Result<R> {
    if succeeded { R::read(reply) } else { Err(super::record::decode_error(reply)) }
}

/// Runs the body of an exported function and writes its reply or its error.
///
/// # Safety
/// `object` is the data of an object that [`RawObject::new`] made of a `Guarded<T>` and that is alive.
#[inline(always)]
pub(super) unsafe fn answer<T: Exported, R: Reply>(
    object: *const c_void,
    out: RawSink<'_, u8>,
    body: impl FnOnce(&T) -> Result<R>,
) -> bool {
    // SAFETY: the caller's promise.
    let object = unsafe { &*object.cast::<Guarded<T>>() };
    match object.call(|value| body(value)?.write(&out)) {
        Ok(()) => true,
        Err(error) => {
            report(&out, &error);
            false
        }
    }
}

#[cold]
fn report(out: &RawSink<'_, u8>, error: &Error) {
    out.write(&super::record::encode_error(error));
}

/// A place of the caller to which the callee appends elements.
#[repr(C)]
#[derive(StableAbi)]
pub struct RawSink<'a, T> {
    target: *mut c_void,
    write: unsafe extern "C" fn(*mut c_void, RSlice<'_, T>),
    lifetime: PhantomData<&'a mut T>,
}

impl<'a, T: Copy + 'a> RawSink<'a, T> {
    /// A sink that appends to a vector.
    pub(super) fn of(target: &'a mut Vec<T>) -> Self {
        unsafe extern "C" fn write<T: Copy>(target: *mut c_void, elements: RSlice<'_, T>) {
            // SAFETY: `of` made the pair, and borrows the vector for as long as the sink lives.
            let target = unsafe { &mut *target.cast::<Vec<T>>() };
            target.extend_from_slice(elements.as_slice());
        }
        Self { target: std::ptr::from_mut(target).cast(), write: write::<T>, lifetime: PhantomData }
    }

    /// Appends elements.
    pub(super) fn write(&self, elements: &[T]) {
        // SAFETY: the function belongs to this target, which outlives the sink.
        unsafe { (self.write)(self.target, elements.into()) }
    }
}

impl<T: CType> CType for RawSink<'_, T> {
    fn name() -> String {
        format!("MdtSink_{}", T::name())
    }

    fn declare(declarations: &mut Declarations) {
        RSlice::<'_, T>::declare(declarations);
        let write = format!("void (*write)(void *target, {} elements)", RSlice::<'_, T>::name());
        declarations.add_words(Self::name(), &[("target", "void *target".to_owned()), ("write", write)]);
    }
}

impl CType for RawObject {
    fn name() -> String {
        "MdtObject".to_owned()
    }

    fn declare(declarations: &mut Declarations) {
        RStr::declare(declarations);
        RawInterface::declare(declarations);
        let words = [
            ("data", "const void *data"),
            ("drop", "void (*drop)(const void *data)"),
            ("get", "MdtInterface (*get)(const void *data, MdtStr name)"),
        ];
        declarations.add_words(Self::name(), &words.map(|(name, text)| (name, text.to_owned())));
    }
}
