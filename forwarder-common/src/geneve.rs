//! geneve
