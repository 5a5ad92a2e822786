//! What kind of SIP message, as far as claims and verdicts care.

use crate::coded;

coded! {
    /// Kind of message.
    pub enum Kind {
        /// A request that can start a transaction: any but ACK and CANCEL.
        Request = 1,
        /// An ACK.
        Ack = 2,
        /// A CANCEL.
        Cancel = 3,
        /// A response.
        Response = 4,
    }
}
