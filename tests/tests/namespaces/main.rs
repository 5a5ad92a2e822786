//! Real SIP software in network namespaces: one behaviour a file, each test in a lab of its own.
//!
//! A test says which edge answered and which outcomes moved; any other movement fails it. One program for all of them,
//! because linking fifteen takes longer than running them.

mod alone;
mod bad_input;
mod bgp;
mod calls;
mod chaos;
mod clash;
mod detach;
mod drain;
mod egress;
mod epochs;
mod failover;
mod fast_replies;
mod flood;
mod foreign_peer;
mod forged_icmp;
mod forgery;
mod forms;
mod fragments;
mod full_size;
mod hostile;
mod interfaces;
mod joining;
mod large;
mod late;
mod late_keys;
mod leaving;
mod link_death;
mod malformed;
mod mesh;
mod odd_calls;
mod options;
mod path;
mod paused;
mod restarts;
mod rolling;
mod rotation;
mod segments;
mod silence;
mod sources;
mod twice;
mod unanswered;
mod untouched;
mod without;
