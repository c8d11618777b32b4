//! Rotations and repairs on a real API server.

mod canary;
mod changes;
mod clock_jump;
mod nudge;
mod repair;
mod rings;
mod rings_support;
mod upheaval;
