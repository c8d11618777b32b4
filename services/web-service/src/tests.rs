//! The service between a browser that is a plain HTTP client and services that are real but for what they do.

mod browser;
mod credentials;
mod fakes;
mod login;
mod pages;
mod sessions;
mod uploads;
