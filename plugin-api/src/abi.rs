//! The boundary (being written).
/// The entry.
pub struct Entry(u8);
/// The entry.
pub const ENTRY: Entry = Entry(0);
