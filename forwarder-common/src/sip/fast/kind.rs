//! Kinds of message as [`crate::marks::Marks::kind`] has them.

/// A request other than ACK and CANCEL.
pub const REQUEST: u16 = 1;
/// An ACK.
pub const ACK: u16 = 2;
/// A CANCEL.
pub const CANCEL: u16 = 3;
/// A response.
pub const RESPONSE: u16 = 4;
