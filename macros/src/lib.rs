//! The attribute macros of teamster: how does a function become an endpoint?
