//! The entry of a plugin: what its one symbol points to, and how a host gets the components from it.

use std::ffi::c_void;
use std::mem::offset_of;

use super::component::{self, LoadedComponent};
use super::guard::{self, Guarded, Owner};
use super::object::{Imported, RawObject, RawSink, exports};
use super::record;
use super::table::{CType, Declarations, Member, interfaces};
use super::types::filled;
use crate::register::Registration;
use crate::{Error, Result};

/// The type of the entry symbol, [`super::ENTRY_SYMBOL`]. This struct is the same in all versions.
#[repr(C)]
#[derive(abi_stable::StableAbi)]
pub struct Entry {
    magic: [u8; 16],
    open: unsafe extern "C" fn(*mut c_void, RawSink<'_, u8>) -> bool,
}

impl CType for Entry {
    fn name() -> String {
        "MdtEntry".to_owned()
    }

    fn declare(declarations: &mut Declarations) {
        RawObject::declare(declarations);
        RawSink::<'_, u8>::declare(declarations);
        let magic = Member { text: "char magic[16]".to_owned(), name: "magic", offset: offset_of!(Self, magic) };
        let open = "bool (*open)(void *library, MdtSink_uint8_t out)".to_owned();
        let open = Member { text: open, name: "open", offset: offset_of!(Self, open) };
        declarations.add(Self::name(), size_of::<Self>(), vec![magic, open]);
    }
}

const MAGIC: [u8; 16] = *b"mdt plugin 2\0\0\0\0";

interfaces! {
    /// A loaded library.
    "plugin.library/1" PluginLibrary LibraryFunctions {
        /// The number of its components.
        fn count_components() -> u64;
        /// The component of this number, from 0.
        fn component(number: u64, component: &mut RawObject);
    }
}

/// The library itself, as an object.
struct Library;

exports! { Library: PluginLibrary; }

impl LibraryFunctions for Library {
    fn count_components(&self) -> Result<u64> {
        Ok(Registration::all().len() as u64)
    }

    fn component(&self, number: u64, component: &mut RawObject) -> Result<()> {
        let all = Registration::all();
        let registration = usize::try_from(number).ok().and_then(|number| all.get(number));
        *component = component::export(registration.ok_or_else(|| Error::plugin("there is no such component"))?);
        Ok(())
    }
}

/// What a library runs when it is loaded.
pub trait OnLoad {
    /// Called once, before anything else of the library; a panic refuses the library. Any thread.
    fn on_load();
}

/// Runs nothing, which is enough for almost every library.
impl OnLoad for () {
    fn on_load() {}
}

/// Writes the library's object to `library`, a `RawObject`.
unsafe extern "C" fn open<T: OnLoad>(library: *mut c_void, out: RawSink<'_, u8>) -> bool {
    guard::keep_panics_quiet();
    let loaded = guard::caught(|| {
        T::on_load();
        Ok(RawObject::new(Guarded::new(Library, Owner::named("plugin"))))
    });
    match loaded.and_then(|loaded| loaded) {
        // SAFETY: the host passes an object to write to; the old one is nothing, which needs no drop.
        Ok(object) => unsafe { library.cast::<RawObject>().write(object) },
        Err(error) => {
            out.write(&record::encode_error(&error));
            return false;
        }
    }
    true
}

/// The entry of a library whose components are registered by [`plugin!`](crate::plugin).
pub const fn entry<T: OnLoad>() -> Entry {
    Entry { magic: MAGIC, open: open::<T> }
}

/// Checks that an entry fits this crate, and returns the library's components of the kinds that are known here.
///
/// # Errors
/// The library was built for another boundary, or its entry failed.
///
/// # Safety
/// `symbol` is the address of the symbol [`super::ENTRY_SYMBOL`] in a library that stays loaded for good.
pub unsafe fn load(symbol: *const ()) -> Result<Vec<LoadedComponent>> {
    // SAFETY: the caller promises a symbol of this name; whatever its type, 16 bytes of a library can be read there.
    if unsafe { symbol.cast::<[u8; 16]>().read_unaligned() } != MAGIC {
        return Err(Error::plugin("its entry is not one of this boundary")
            .help("rebuild the plugin against this host's mdt-plugin-api"));
    }
    // SAFETY: the magic says that an `Entry` is there.
    let entry = unsafe { &*symbol.cast::<Entry>() };
    let (mut library, mut error) = (RawObject::default(), Vec::new());
    // SAFETY: the slot and the sink live until the call returns.
    if !unsafe { (entry.open)((&raw mut library).cast(), RawSink::of(&mut error)) } {
        return Err(record::decode_error(&error));
    }
    let library = Imported::<PluginLibrary>::of(library, "plugin")?;
    let mut components = Vec::new();
    for number in 0..library.count_components()? {
        components.extend(LoadedComponent::import(filled(|component| library.component(number, component))?)?);
    }
    Ok(components)
}
