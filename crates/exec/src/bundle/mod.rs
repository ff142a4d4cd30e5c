//! Bundles: a directory as one file, a tar packed with zstd. Also the form in which artifacts come back.
//!
//! The same names, contents, modes and times give the same bytes and so the same digest: entries are sorted, owners are 0, and
//! nothing else of the packing host gets in. Unpacking trusts nothing: see [`mod@unpack`].

mod pack;
mod tree;
mod unpack;
mod write;

pub use pack::{PackError, PackOptions, Packed, pack};
pub(crate) use tree::Tree;
pub(crate) use unpack::{Content, Control, Entry, Facts, lossy, plain, unpack_into, untar_into};
pub use unpack::{Limits, Refusal, UnpackError, Unpacked, unpack};
pub(crate) use write::{Digesting, Writer};
