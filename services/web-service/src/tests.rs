//! Tests of web-service with a plain HTTP client as the browser and stand-ins for the upstreams.

mod browser;
mod credentials;
mod fakes;
mod login;
mod pages;
mod sessions;
mod uploads;
