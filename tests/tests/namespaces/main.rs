//! Real SIP software in network namespaces: one behaviour a file.

mod without;
