//! Odd objects, made from the schemas that the API server checks them by.
#![allow(unreachable_pub, reason = "a module of a test program")]

pub mod deviation;
pub mod full;
