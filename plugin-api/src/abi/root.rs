//! The entry of a plugin: what its one symbol points to, and how a host gets the components from it.

use abi_stable::StableAbi;
use abi_stable::library::{
    __call_root_module_loader, AbiHeaderRef, CheckTypeLayout, LibHeader, LibraryError, RootModule, RootModuleError,
    RootModuleResult,
};
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::{RBoxError, RVec};

use super::component::{self, ComponentObject, LoadedComponent};
use super::guard;
use crate::register::Registration;
use crate::{Error, Result};

/// The type of the entry symbol, [`super::ENTRY_SYMBOL`].
pub type Entry = LibHeader;

/// The root of a library. Fields are only appended.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = Root)))]
#[sabi(missing_field(option))]
pub struct RootFields {
    /// All components of the library, sorted by kind and id.
    #[sabi(last_prefix_field)]
    pub components: extern "C" fn() -> RVec<ComponentObject>,
}

impl RootModule for Root {
    abi_stable::declare_root_module_statics! {Root}
    const BASE_NAME: &'static str = "mdt_plugin";
    const NAME: &'static str = "mdt_plugin";
    const VERSION_STRINGS: VersionStrings = VersionStrings::new(concat!(crate::__abi_version!(), ".0"));
}

extern "C" fn components() -> RVec<ComponentObject> {
    Registration::all().into_iter().map(component::export).collect()
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

extern "C" fn construct<T: OnLoad>() -> RootModuleResult {
    fn root<T: OnLoad>() -> std::result::Result<Root, RBoxError> {
        guard::keep_panics_quiet();
        let on_load = || {
            T::on_load();
            Ok(())
        };
        match guard::caught(on_load) {
            Ok(_) => Ok(RootFields { components }.leak_into_prefix()),
            Err(panic) => Err(RBoxError::new(panic)),
        }
    }
    __call_root_module_loader(root::<T>)
}

/// The entry of a library whose components are registered by [`plugin!`](crate::plugin).
pub const fn entry<T: OnLoad>() -> Entry {
    // SAFETY: `construct` gives a `Root`, as the type parameter says.
    unsafe { LibHeader::from_constructor::<Root>(construct::<T>, CheckTypeLayout::Yes) }
}

/// Checks that an entry fits this crate, and returns the library's components.
///
/// # Errors
/// The library was built with another version of the boundary or other layouts, or its entry failed.
///
/// # Safety
/// `symbol` is the address of the symbol [`super::ENTRY_SYMBOL`] in a library that stays loaded for good.
pub unsafe fn load(symbol: *const ()) -> Result<Vec<LoadedComponent>> {
    // SAFETY: the caller promises that a header is there; what follows checks the header's own magic first. The
    // reference type is a transparent wrapper around such an address.
    let header = unsafe { std::mem::transmute::<*const (), AbiHeaderRef>(symbol) };
    let root = header.upgrade().and_then(LibHeader::init_root_module::<Root>).map_err(refusal)?;
    (root.components())().into_iter().map(LoadedComponent::import).collect()
}

fn refusal(error: LibraryError) -> Error {
    let error = match error {
        LibraryError::RootModule { err: RootModuleError::Unwound, .. } => {
            return Error::plugin("its entry panicked");
        }
        LibraryError::RootModule { err: RootModuleError::Returned(cause), .. } => {
            return Error::plugin("its entry failed").caused_by(cause);
        }
        LibraryError::AbiInstability(_) => {
            // The full comparison of layouts is pages long and says nothing to a user.
            Error::plugin("it was built against another version of mdt-plugin-api: the layouts of the traits differ")
        }
        other => Error::plugin("it was built against another version of mdt-plugin-api").caused_by(
            other.to_string().lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" "),
        ),
    };
    error.help("rebuild the plugin against this host's mdt-plugin-api")
}
